import numpy as np
import pytest

from lomt.data.plane_normals import Camera, plane_normals

CAMERA = Camera(fx=200.0, fy=208.0, cx=19.5, cy=14.5, size=(30, 40))


def depth_of(normal, distance, camera=CAMERA):
    """Depth of the plane n . P = -distance (n faces the camera) at every pixel."""
    rows, columns = np.mgrid[: camera.size[0], : camera.size[1]]
    x, y = (columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy
    return (-distance / (normal[0] * x + normal[1] * y + normal[2])).astype(np.float32)


@pytest.mark.parametrize(
    "normal",
    [(0, 0, -1), (0.3, 0, -1), (0, -1, -0.6), (-0.5, 0.4, -0.7)],
    ids=["front", "wall", "floor", "slant"],
)
def test_planes_are_exact(normal):
    normal = np.array(normal) / np.linalg.norm(normal)
    depth = depth_of(normal, 2.0)
    assert (depth > 0).all()
    found = plane_normals(depth, CAMERA)
    # within the window depth must not change by more than 5 %, else the window shrinks: still exact
    assert np.degrees(np.arccos(np.clip(found @ normal, -1, 1))).max() < 0.2


def test_two_planes_do_not_mix():
    left, right = np.array([0, 0, -1.0]), np.array([0.6, 0, -0.8])
    depth = depth_of(left, 2.0)
    depth[:, 20:] = depth_of(right, 6.0)[:, 20:]
    found = plane_normals(depth, CAMERA)
    np.testing.assert_allclose(found[:, :20] @ left, 1, atol=1e-5)
    np.testing.assert_allclose(found[:, 20:] @ right, 1, atol=1e-5)


def test_no_depth_no_normal():
    depth = depth_of((0, 0, -1), 2.0)
    depth[:10] = 0
    depth[12, 12] = np.nan
    found = plane_normals(depth, CAMERA)
    assert not found[:10].any()
    assert not found[12, 12].any()
    np.testing.assert_allclose(found[10:, 20:, 2], -1, atol=1e-5)


def test_few_pixels_or_a_line_have_no_normal():
    lonely = np.zeros((30, 40), np.float32)
    lonely[5, 5] = lonely[20, :] = 2.0
    assert not plane_normals(lonely, CAMERA).any()


def test_the_unit_of_depth_does_not_matter():
    depth = depth_of((0.2, -0.3, -0.9), 2.0)
    np.testing.assert_allclose(plane_normals(depth * 1000, CAMERA), plane_normals(depth, CAMERA), atol=1e-5)


def test_a_smaller_image_of_the_same_view():
    half = CAMERA.scaled((15, 20))
    assert (half.fx, half.fy, half.cx, half.cy) == (100.0, 104.0, 9.5, 7.0)
    normal = np.array([0.3, -0.5, -0.8]) / np.linalg.norm([0.3, -0.5, -0.8])
    np.testing.assert_allclose(plane_normals(depth_of(normal, 2.0, half), half) @ normal, 1, atol=1e-4)
