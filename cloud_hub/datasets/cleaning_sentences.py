"""What the cleaning report says to people: each finding in a sentence, with its remedy. Pure."""

from types import MappingProxyType

from cloud_hub.datasets.cleaning_report import FindingCode

# {count} of items (of classes, of channels), {detail}: the reason, the fact, the ratio.
_SENTENCES = MappingProxyType(
    {
        FindingCode.LEAK_DIGEST: (
            "{count} items have the same bytes as an item in another part: what is tested was "
            "trained on. Split the dataset again, or remove the copies."
        ),
        FindingCode.LEAK_GROUP: (
            "{count} items belong to a group (device, clip, person) that lies in several parts. "
            "Split the dataset again by group."
        ),
        FindingCode.LABEL_CONFLICT: (
            "{count} items have the same bytes as another and a different label. Look at them and "
            "correct the labels; until then remove them from training."
        ),
        FindingCode.BROKEN: (
            "{count} entries {detail}. They were left out; repair or remove them at the source."
        ),
        FindingCode.DUPLICATE: (
            "{count} items repeat the bytes of an earlier one. They are kept once and always lie "
            "in the same part; remove them at the source if they were not meant."
        ),
        FindingCode.NEAR_DUPLICATE: (
            "{count} pictures look like an earlier one, as frames of one clip do. Give such "
            "pictures a group, so that they stay in one part."
        ),
        FindingCode.IMBALANCE: (
            "The largest class has {detail} times the items of the smallest. Collect more of the "
            "small ones, or train with class weights or focal loss."
        ),
        FindingCode.RARE_CLASS: (
            "{count} classes have so few items that no measure of them means much. Collect more, "
            "or merge the class into another."
        ),
        FindingCode.EMPTY_CLASS: (
            "{count} classes have no item. Collect some, or take the class out of the dataset."
        ),
        FindingCode.UNLABELLED: (
            "{count} items have no label. Label them, or use them for pretraining and "
            "pseudo-labels."
        ),
        FindingCode.OUTLIER: (
            "{count} items lie far from all others in one fact: {detail}. Look at the examples and "
            "remove what does not belong."
        ),
        FindingCode.BLANK: (
            "{count} pictures are of one colour, as of a covered or dark camera. Remove them, "
            "unless that is what should be recognised."
        ),
        FindingCode.DEAD_CHANNEL: (
            "{count} channels have the same value in all windows. Check the sensor, or leave the "
            "channel out."
        ),
        FindingCode.FLAT_CHANNEL: (
            "{count} channels are constant within more than half of the windows. Check the sensor "
            "and its rate, or make windows longer."
        ),
        FindingCode.BOX_OUTSIDE: (
            "{count} pictures have boxes that reach outside. They were cut off at the edge; check "
            "the size that the labels were made for."
        ),
        FindingCode.BOX_DEGENERATE: (
            "{count} pictures have boxes without area. These boxes were left out; draw them again."
        ),
        FindingCode.BOX_TINY: (
            "{count} pictures have boxes too small to be found by a detector (below 0.5 % of a "
            "side). Check them; train at a larger input if they are meant."
        ),
    }
)


def sentence_on(code: FindingCode, count: int, detail: str) -> str:
    """Return the sentence on a finding."""
    text = _SENTENCES[code].format(count=count, detail=detail)
    return text if count != 1 else _singular(text)


def _singular(text: str) -> str:
    """Return a sentence that begins "1 items ..." as people would say it."""
    for plural, single in (
        ("1 items have", "1 item has"), ("1 items belong", "1 item belongs"),
        ("1 items repeat", "1 item repeats"), ("1 items lie", "1 item lies"),
        ("1 pictures look", "1 picture looks"), ("1 pictures are", "1 picture is"),
        ("1 pictures have", "1 picture has"), ("1 classes have", "1 class has"),
        ("1 channels have", "1 channel has"), ("1 channels are", "1 channel is"),
        ("1 entries", "1 entry"),
    ):  # fmt: skip
        text = text.replace(plural, single, 1) if text.startswith(plural) else text
    return text
