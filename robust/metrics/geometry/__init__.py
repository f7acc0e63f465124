"""Geometry of a model: sharpness, curvature, density, convexity; on any module and any latents."""

from robust.metrics.geometry.convexity import ClassConvexity, Convexity, convexity
from robust.metrics.geometry.curvature import fastest_product, make_product
from robust.metrics.geometry.density import Density, LatentSpace
from robust.metrics.geometry.eigenvalues import Eigenpairs, top_eigenvalues
from robust.metrics.geometry.estimate import Estimate, bootstrapped
from robust.metrics.geometry.input_space import InputCurvature, InputSpace, PerClip
from robust.metrics.geometry.ranks import Correlation, FamilyCorrelation, correlation, family_correlation
from robust.metrics.geometry.sharpness import Sharpness
from robust.metrics.geometry.sharpness_average import AverageSharpness, average_sharpness
from robust.metrics.geometry.sharpness_keskar import keskar_sharpness
from robust.metrics.geometry.sharpness_steps import asam_sharpness, sam_sharpness
from robust.metrics.geometry.sharpness_worst import worst_case_sharpness
from robust.metrics.geometry.spectrum import SpectralDensity, Trace, hessian_trace, spectral_density
from robust.metrics.geometry.weights import WeightLoss

__all__ = [
    "AverageSharpness",
    "ClassConvexity",
    "Convexity",
    "Correlation",
    "Density",
    "Eigenpairs",
    "Estimate",
    "FamilyCorrelation",
    "InputCurvature",
    "InputSpace",
    "LatentSpace",
    "PerClip",
    "Sharpness",
    "SpectralDensity",
    "Trace",
    "WeightLoss",
    "asam_sharpness",
    "average_sharpness",
    "bootstrapped",
    "convexity",
    "correlation",
    "family_correlation",
    "fastest_product",
    "hessian_trace",
    "keskar_sharpness",
    "make_product",
    "sam_sharpness",
    "spectral_density",
    "top_eigenvalues",
    "worst_case_sharpness",
]
