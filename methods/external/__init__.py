"""Systems that are not ours (contract: base.py), by the name that --method takes."""

from methods.external.base import ExternalMethod
from methods.external.nnunet import (
    NnunetCascade,
    NnunetFullres,
    NnunetFullresCrops,
    NnunetLowres,
    PaNSegNetSystem,
)

EXTERNAL: dict[str, type[ExternalMethod]] = {
    # Table VI, in its order
    "nnunet_3d_lowres": NnunetLowres,
    "nnunet_3d_fullres": NnunetFullres,
    "pansegnet": PaNSegNetSystem,
    "nnunet_3d_cascade": NnunetCascade,
    # beyond the paper
    "nnunet_crops": NnunetFullresCrops,
}

__all__ = ["EXTERNAL", "ExternalMethod"]
