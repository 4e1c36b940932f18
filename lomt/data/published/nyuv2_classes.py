"""The classes of NYU-Depth v2: how 894 labels become 40 and 13, and the official split.

References:
    Indoor Segmentation and Support Inference from RGBD Images, Silberman, Hoiem, Kohli, Fergus, 2012,
    https://doi.org/10.1007/978-3-642-33715-4_54 (labels, split).
    Perceptual Organization and Recognition of Indoor Scenes from RGB-D Images, Gupta, Arbelaez, Malik, 2013,
    https://doi.org/10.1109/CVPR.2013.79 (40 classes).
    SceneNet: Understanding Real World Indoor Scenes With Synthetic Data, Handa, Patraucean, Badrinarayanan,
    Stent, Cipolla, 2016, https://arxiv.org/abs/1511.07041 (13 classes).
"""

import numpy as np
from jaxtyping import Bool, UInt8

__all__ = [
    "CLASSES_13",
    "CLASSES_40",
    "COUNT",
    "LABELS",
    "NAMED_40",
    "forty_to",
    "label_table",
    "official_test",
]


def _parts(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


COUNT = 1449
"""Images of the labelled set."""
LABELS = 894
"""Labels in the file; 0 is none."""

CLASSES_40 = _parts(
    "wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, blinds, "
    "desk, shelves, curtain, dresser, pillow, mirror, floor mat, clothes, ceiling, books, refridgerator, "
    "television, paper, towel, shower curtain, box, whiteboard, person, night stand, toilet, sink, lamp, "
    "bathtub, bag, otherstructure, otherfurniture, otherprop"
)
NAMED_40 = 37
"""The first of the 40 that are no collection of others."""
CLASSES_13 = _parts(
    "bed, books, ceiling, chair, floor, furniture, objects, picture, sofa, table, tv, wall, window"
)

# of the labels 1 to 894: the one label of each of the 37 named classes, in class order
_NAMED = _numbers(
    "21 11 3 157 5 83 19 28 59 88 64 7 80 36 42 89 169 119 122 143 141 4 85 17 172 15 135 123 26 45 331 158 "
    "124 24 144 136 55"
)
_OTHER_STRUCTURE = _numbers(
    "8 25 33 38 51 53 57 58 62 65 79 94 104 112 134 153 215 216 223 225 238 241 242 256 295 301 339 342 354 "
    "363 372 380 392 408 412 453 456 463 477 497 541 550 553 567 573 582 591 609 612 615 642 645 657 658 659 "
    "663 667 668 686 700 702 777 778 782 850 861 868 874"
)
_OTHER_FURNITURE = _numbers(
    "12 43 48 50 87 106 111 161 163 174 183 204 214 219 221 224 236 262 278 291 298 313 343 344 356 359 373 "
    "393 401 414 418 419 430 443 444 447 448 457 458 460 462 475 479 485 486 493 494 498 499 509 510 515 521 "
    "524 540 549 551 554 556 558 576 580 608 625 703 734 770 772 797 800 803 804 813 814 815 820 829 835 858 "
    "863 882 892"
)
# class of the 13, from 1, by class of the 40
_TO_13 = _numbers("12 5 6 1 4 9 10 12 13 6 8 6 13 10 6 13 6 7 7 5 7 3 2 6 11 7 7 7 7 7 7 6 7 7 7 7 7 7 6 7")
# numbers of the test images, from 1; all others are for training
_TEST = """
1-2 9 14-18 21 28-43 46-47 56-57 59-63 76-79 84-91 117-119 125-129 131-134 137 153-155 167-169 171-176 180-202 207-212
220-222 250 264 271-273 279-285 296-302 310-312 315-317 325-335 351-352 355-364 384-390 395-397 411-414 430-435 441-448
462-466 469-477 508-513 515-526 531-533 537-539 549-551 555-571 579-583 591-594 603-607 612-613 617-621 633-638 644-645
650-651 656-658 663-664 668-673 676-681 686-690 693-694 697-699 706-713 717-718 724-728 731-734 743-744 759-787 800-804
810-814 821-823 833-846 850-852 857-862 869-871 906-908 917-919 926-928 932-935 945-947 959-962 965-967 970-977 991-995
1001-1004 1010-1012 1021-1023 1032-1034 1038-1039 1048-1049 1052-1053 1057-1058 1075-1084 1088-1096 1098-1104 1106-1109
1117-1119 1123-1131 1135-1136 1144-1158 1162-1167 1170-1171 1174-1176 1179-1184 1192-1196 1201-1212 1216-1220 1226-1230
1233-1235 1247-1250 1254-1265 1275-1280 1285-1295 1297-1299 1302-1308 1314-1315 1329-1332 1335-1340 1347-1349 1353-1356
1364-1365 1368-1369 1384-1391 1394-1401 1407-1414 1421-1424 1430-1433 1441-1449
"""


def label_table(classes: int) -> UInt8[np.ndarray, " labels"]:
    """Return, by label from 0 to 894, the class from 1; 0 where there is none.

    Args:
        classes: 13, 37 (the 40 without the last three, which are collections of others) or 40.
    """
    table = np.full(LABELS + 1, 40, np.uint8)
    table[0] = 0
    table[list(_NAMED)] = np.arange(1, NAMED_40 + 1)
    table[list(_OTHER_STRUCTURE)] = 38
    table[list(_OTHER_FURNITURE)] = 39
    return forty_to(classes)[table]


def forty_to(classes: int) -> UInt8[np.ndarray, " forty"]:
    """Return, by class of the 40 (from 1, 0 for none), the class of a smaller set in the same counting."""
    if classes == 13:
        return np.array((0, *_TO_13), np.uint8)
    table = np.arange(41, dtype=np.uint8)
    table[classes + 1 :] = 0
    return table


def official_test() -> Bool[np.ndarray, " images"]:
    """Return which of the 1449 images are for testing (654 of them)."""
    is_test = np.zeros(COUNT, bool)
    for run in _TEST.split():
        first, _, last = run.partition("-")
        is_test[int(first) - 1 : int(last or first)] = True
    return is_test
