"""Drawing of the embedded dataset: blueprints of object classes, a canvas with a label map, and scenes."""
