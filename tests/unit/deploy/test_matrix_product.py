import numpy as np
import onnx
from onnx import numpy_helper

from lomt.deploy.cost import count_cost
from lomt.deploy.matrix_product import write_product
from lomt.deploy.session import open_session


def test_it_multiplies_with_the_stored_matrix_and_costs_a_cube(tmp_path):
    path = write_product(12, tmp_path / "product.onnx")
    matrix = numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    rows = np.random.default_rng(1).standard_normal((12, 12), dtype=np.float32)
    (product,) = open_session(path).run(None, {"rows": rows})
    np.testing.assert_allclose(product, rows @ matrix, rtol=1e-4, atol=1e-5)
    assert count_cost(path, batch=12).macs == 12**3
