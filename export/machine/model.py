"""What is told of a machine and of its conditions, as it is written into results. Units stand in the names."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Told(BaseModel):
    """Data that never change once they are read; what could not be read is None, and `unavailable` of the whole says why.

    What a newer bmtas has written beside the fields known here is left out on reading.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)


class Cpu(Told):
    """The processor, and what bounds its speed.

    `usable` is the number of CPUs on which this process may run, `quota_cpus` how many of them a control group lets it use in the
    mean. `limit_*_mhz` are what the clocks are held between now, `hardware_*_mhz` what the processor can do; over all usable CPUs.
    """

    model: str | None = None
    architecture: str
    usable: int
    online: int | None = None
    quota_cpus: float | None = None
    features: tuple[str, ...] = ()
    governor: str | None = None
    limit_min_mhz: float | None = None
    limit_max_mhz: float | None = None
    hardware_min_mhz: float | None = None
    hardware_max_mhz: float | None = None
    boost: bool | None = None


class Gpu(Told):
    """One GPU as NVML tells it. `max_*_mhz` bound its clocks; `application_*_mhz` are the ones that somebody has set."""

    index: int
    name: str | None = None
    uuid: str | None = None
    compute_capability: str | None = None
    memory_mib: int | None = None
    driver: str | None = None
    cuda: str | None = None
    power_limit_w: float | None = None
    default_power_limit_w: float | None = None
    persistence: bool | None = None
    compute_mode: str | None = None
    mig: bool | None = None
    max_graphics_mhz: int | None = None
    max_memory_mhz: int | None = None
    application_graphics_mhz: int | None = None
    application_memory_mhz: int | None = None


class Jetson(Told):
    """An NVIDIA Jetson board. `jetpack_derived` says that its version was concluded from that of L4T.

    `power_modes` are the modes that the board has, by id. `clocks_fixed` is whether the clocks of CPU and GPU are held at one value, as
    jetson_clocks does.
    """

    model: str
    l4t: str | None = None
    jetpack: str | None = None
    jetpack_derived: bool = False
    power_mode_id: int | None = None
    power_mode: str | None = None
    power_modes: dict[int, str] = {}
    clocks_fixed: bool | None = None
    gpu_min_mhz: float | None = None
    gpu_max_mhz: float | None = None
    gpu_hardware_max_mhz: float | None = None
    emc_max_mhz: float | None = None


class System(Told):
    """Operating system, kernel and Python."""

    os: str | None = None
    kernel: str
    python: str


class Identity(Told):
    """What this machine is. Two measurements may be compared where `unlike` finds nothing.

    `runtimes` maps the names of the runtimes that are installed to their versions. `container` is docker, podman, kubernetes, other or none.
    """

    title: str
    cpu: Cpu
    gpus: tuple[Gpu, ...] = ()
    jetson: Jetson | None = None
    system: System
    runtimes: dict[str, str] = {}
    container: str = "none"
    memory_mib: int | None = None
    unavailable: dict[str, str] = {}


class Series(Told):
    """What one sensor told while it was sampled."""

    start: float
    min: float
    median: float
    max: float


class Conditions(Told):
    """How the machine did between the first and the last reading.

    `throttling` tells by part (cpu, gpu, board) whether its clock was lowered because of heat or power, for the parts that tell it;
    `throttled` whether any was, and None where no part tells. `reading_ms` is the median time that one reading of all sensors takes, and
    `share_of_time` the share of the time that readings took.
    """

    samples: int
    interval_s: float
    temperature_c: dict[str, Series] = {}
    clocks_mhz: dict[str, Series] = {}
    power_w: dict[str, Series] = {}
    throttled: bool | None = None
    throttling: dict[str, bool] = {}
    throttle_reasons: list[str] = []
    reading_ms: float | None = None
    share_of_time: float | None = None
    unavailable: dict[str, str] = {}
