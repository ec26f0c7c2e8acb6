"""JobOrder: what people ask for. Strict, small, and complete: a Job is run from it alone."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from shared.learning.task import Encoding, LocalMethod, LocalPrivacy, Round
from shared.settings import Settings
from shared.wire.limits import Name, Share

DEVICES_MAX = 10_000


class OnTooFew(StrEnum):
    """What a Round does when its deadline passes without a quorum."""

    REPEAT = "repeat"  # The Round is asked again, `repeats_max` times at most
    END = "end"  # The Job ends with what its last good Round made
    FAIL = "fail"


class MeanStrategy(Settings, frozen=True, tag="fedavg", tag_field="name"):
    """Weighted mean of updates (McMahan et al. 2017). FedProx is this with method.proximal_mu."""


class ProximalStrategy(Settings, frozen=True, tag="fedprox", tag_field="name"):
    """FedAvg whose devices are pulled towards the common weights (Li et al. 2020)."""

    proximal_mu: Annotated[float, Meta(gt=0.0, le=100.0)] = 0.1


class MomentumStrategy(Settings, frozen=True, tag="fedavgm", tag_field="name"):
    """Server momentum (Hsu et al. 2019)."""

    server_learning_rate: Annotated[float, Meta(gt=0.0, le=100.0)] = 1.0
    server_momentum: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.9


class AdaptiveStrategy(Settings, frozen=True, tag="fedadam", tag_field="name"):
    """FedAdam (Reddi et al. 2021)."""

    eta: Annotated[float, Meta(gt=0.0, le=100.0)] = 0.1
    beta_1: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.9
    beta_2: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.99
    tau: Annotated[float, Meta(gt=0.0, le=1.0)] = 1e-3


class YogiStrategy(AdaptiveStrategy, frozen=True, tag="fedyogi", tag_field="name"):
    """FedYogi (Reddi et al. 2021)."""


class AdagradStrategy(Settings, frozen=True, tag="fedadagrad", tag_field="name"):
    """FedAdagrad (Reddi et al. 2021)."""

    eta: Annotated[float, Meta(gt=0.0, le=100.0)] = 0.1
    tau: Annotated[float, Meta(gt=0.0, le=1.0)] = 1e-3


class MedianStrategy(Settings, frozen=True, tag="fedmedian", tag_field="name"):
    """Median of each number (Yin et al. 2018). Robust: every device counts alike."""


class TrimmedStrategy(Settings, frozen=True, tag="fedtrimmedavg", tag_field="name"):
    """Mean of each number without the extremes (Yin et al. 2018). Robust."""

    trimmed_share: Annotated[float, Meta(gt=0.0, lt=0.5)] = 0.2  # Cut off at either end


class KrumStrategy(Settings, frozen=True, tag="krum", tag_field="name"):
    """The one update nearest to its neighbours (Blanchard et al. 2017). Robust."""

    malicious_count: Annotated[int, Meta(ge=1, le=1000)] = 1


class MultiKrumStrategy(KrumStrategy, frozen=True, tag="multikrum", tag_field="name"):
    """Mean of the `selected_count` best by Krum's score. Robust."""

    selected_count: Annotated[int, Meta(ge=0, le=10_000)] = 0  # 0: all but the malicious


class BulyanStrategy(KrumStrategy, frozen=True, tag="bulyan", tag_field="name"):
    """Krum's choice, then a trimmed mean around the median (El Mhamdi et al. 2018). Robust."""


class FairStrategy(Settings, frozen=True, tag="qfedavg", tag_field="name"):
    """q-FedAvg (Li et al. 2020): devices with a high loss weigh more."""

    q: Annotated[float, Meta(ge=0.0, le=100.0)] = 0.2
    learning_rate: Annotated[float, Meta(gt=0.0, le=10.0)] = 0.1


Strategy = (
    MeanStrategy
    | ProximalStrategy
    | MomentumStrategy
    | AdaptiveStrategy
    | YogiStrategy
    | AdagradStrategy
    | MedianStrategy
    | TrimmedStrategy
    | KrumStrategy
    | MultiKrumStrategy
    | BulyanStrategy
    | FairStrategy
)
ROBUST = (MedianStrategy, TrimmedStrategy, KrumStrategy, BulyanStrategy)


class CheckSettings(Settings, frozen=True):
    """What an update must be to be counted."""

    # L2 norm of an update; None: `norm_ratio_max` times the median norm of those accepted lately.
    norm_max: Annotated[float, Meta(gt=0.0, le=1e9)] | None = None
    norm_ratio_max: Annotated[float, Meta(gt=1.0, le=1e6)] = 8.0
    # No device weighs as if it had more samples, nor more than this share of a Round's weight.
    samples_max: Annotated[int, Meta(ge=1, le=10_000_000)] = 100_000
    weight_share_max: Share = 0.5


class LateSettings(Settings, frozen=True):
    """What becomes of an update that comes after its Round was closed (FedBuff, FedAsync)."""

    rounds_max: Annotated[int, Meta(ge=0, le=100)] = 1  # 0: refused
    exponent: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.5  # Weight / (1 + rounds late) ** this


class CentralPrivacy(Settings, frozen=True):
    """Central differential privacy: devices clip, the hub adds noise to the mean.

    Noise on the mean of n updates: noise_multiplier * clip_norm / n on every number, equal weights.
    """

    clip_norm: Annotated[float, Meta(gt=0.0, le=1e6)]
    noise_multiplier: Annotated[float, Meta(gt=0.0, le=1000.0)]
    delta: Annotated[float, Meta(gt=0.0, lt=1.0)] = 1e-5
    epsilon_max: Annotated[float, Meta(gt=0.0, le=1e6)] | None = None  # The Job ends before it


class JobOrder(Settings, frozen=True):
    """A federated Job. A group or a list of devices, never both."""

    model: Name
    checkpoint: Name | None = None  # What to start from; None: the model's newest
    group: Name | None = None
    devices: Annotated[tuple[Name, ...], Meta(max_length=DEVICES_MAX)] = ()
    strategy: Strategy = MeanStrategy()
    method: LocalMethod = LocalMethod()
    rounds: Round = 3
    encoding: Encoding = Encoding.FP32
    deadline_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 300.0  # Of one Round
    # How long devices may take to come: a Round begins when `devices_min` are there.
    gather_s: Annotated[float, Meta(ge=1.0, le=604_800.0)] = 600.0
    devices_min: Annotated[int, Meta(ge=1, le=DEVICES_MAX)] = 2
    mandatory: Annotated[tuple[Name, ...], Meta(max_length=1000)] = ()  # No Round without them
    fraction: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0  # Of those there, asked in one Round
    quorum: Share = 0.5  # Of those asked: valid answers that make a Round count
    on_too_few: OnTooFew = OnTooFew.REPEAT
    repeats_max: Annotated[int, Meta(ge=0, le=100)] = 2
    checks: CheckSettings = CheckSettings()
    late: LateSettings = LateSettings()
    local_privacy: LocalPrivacy | None = None
    central_privacy: CentralPrivacy | None = None
    samples_min: Annotated[int, Meta(ge=1, le=10_000_000)] = 1
    needs_approval: bool = False  # A person says yes before any device is asked
    is_released: bool = True  # What comes out goes to the gate at once
    seed: Annotated[int, Meta(ge=0, le=2**31)] = 0
    notes: Annotated[str, Meta(max_length=2000)] = ""

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        if self.group is not None and self.devices:
            raise ValueError("name a group or devices, not both")
        if self.local_privacy is not None and self.central_privacy is not None:
            raise ValueError("local_privacy and central_privacy exclude each other")
        if isinstance(self.strategy, (*ROBUST, FairStrategy)) and self.central_privacy is not None:
            raise ValueError("central_privacy needs a strategy that takes the mean")
