"""Slow and obvious: flips, nearest and bilinear sampling, pixel by pixel."""

import math

import numpy as np


def flip(planes, is_normals=False):
    """Mirror (channels, height, width); x of a vector changes its sign."""
    channels, height, width = planes.shape
    result = np.empty_like(planes)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                value = planes[c, y, width - 1 - x]
                result[c, y, x] = -value if is_normals and c == 0 else value
    return result


def nearest_resize(plane, size):
    """The value of the stored pixel in which the new pixel's centre lies; plane is (height, width)."""
    height, width = plane.shape
    result = np.empty(size, plane.dtype)
    for y in range(size[0]):
        for x in range(size[1]):
            row = math.floor((y + 0.5) * height / size[0])
            column = math.floor((x + 0.5) * width / size[1])
            result[y, x] = plane[row, column]
    return result


def nearest_crop(plane, factor, top, left):
    """Enlarge from the corner (top, left): the value of the pixel in which the centre falls."""
    height, width = plane.shape
    result = np.empty_like(plane)
    for y in range(height):
        for x in range(width):
            row = math.floor(top + (y + 0.5) / factor)
            column = math.floor(left + (x + 0.5) / factor)
            result[y, x] = plane[min(row, height - 1), min(column, width - 1)]
    return result


def bilinear_crop(plane, factor, top, left):
    """Enlarge from the corner (top, left): the mean of the four nearest centres, by nearness."""
    height, width = plane.shape
    result = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            row = top + (y + 0.5) / factor - 0.5
            column = left + (x + 0.5) / factor - 0.5
            for r in (math.floor(row), math.floor(row) + 1):
                for c in (math.floor(column), math.floor(column) + 1):
                    weight = (1 - abs(row - r)) * (1 - abs(column - c))
                    inside = plane[min(max(r, 0), height - 1), min(max(c, 0), width - 1)]
                    result[y, x] += weight * inside
    return result
