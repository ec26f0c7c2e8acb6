"""Round trips with the tools in which people label: Label Studio, CVAT, COCO and YOLO files."""
