"""Names of the files that the hub and its examining process exchange in one folder."""

TASK = "task.json"  # ExaminationTask
MODEL = "model.onnx"  # As uploaded
GOLDEN = "golden.npz"  # As uploaded; absent where none was given
RESULT = "examination.json"  # Examination; written last
PUBLISHED_MODEL = "published.onnx"  # The form that devices would get
PUBLISHED_GOLDEN = "published.npz"
EVALUATION = "evaluation.npz"  # The evaluation set; absent where there is none
OLD = "old.onnx"  # The release that would be replaced; absent where there is none
TOKENIZER = "tokenizer.json"  # Of a text model that has one
OLD_TOKENIZER = "old-tokenizer.json"
PRUNED = "pruned.onnx"  # Further fp32 forms of the same model, where the hub has them
TUNED = "tuned.onnx"  # Its weights are quantized, not published as they are


def variant_model(name: str) -> str:
    """Return the name of the file of one form of the model."""
    return f"variant-{name}.onnx"


def variant_golden(name: str) -> str:
    """Return the name of the golden set of one form of the model."""
    return f"variant-{name}.npz"
