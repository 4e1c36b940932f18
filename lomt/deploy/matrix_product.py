"""The product of two large matrices as an ONNX file: what a machine can do at best."""

from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["PRODUCT_SIZE", "PRODUCT_SIZE_ON_GPU", "write_product"]

PRODUCT_SIZE: Final = 768
PRODUCT_SIZE_ON_GPU: Final = 4096

_OPSET, _IR_VERSION = 18, 10


def write_product(size: int, path: Path) -> Path:
    """Write a network that multiplies its input with a fixed matrix, both ``size`` x ``size``, in float32.

    The fixed matrix stands for weights: software may bring it into the order it likes when the file is opened.
    """
    matrix = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["rows", "matrix"], ["product"], name="product")],
        "product",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [size, size])],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, [size, size])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    network = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
    )
    onnx.save(network, path)
    return path
