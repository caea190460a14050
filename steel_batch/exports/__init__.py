"""What was found, in the formats of other programs: Kaggle, COCO, CVAT, FiftyOne, masks as PNG."""
