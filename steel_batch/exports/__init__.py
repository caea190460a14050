"""Defects in the formats of other programs: Kaggle, COCO, CVAT, FiftyOne, PNG masks."""
