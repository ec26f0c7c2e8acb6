"""Names of the files that the hub and its examining process exchange in one folder."""

TASK = "task.json"  # ExaminationTask
MODEL = "model.onnx"  # As uploaded
GOLDEN = "golden.npz"  # As uploaded; absent where none was given
RESULT = "examination.json"  # Examination; written last
PUBLISHED_MODEL = "published.onnx"  # The form that devices would get
PUBLISHED_GOLDEN = "published.npz"
