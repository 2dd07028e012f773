"""The registry as the configuration divides it: governed ranges, unknown paths, idle names. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from kube_rewrap.worker.records.inventory import ResourceRange


@dataclass(frozen=True, slots=True)
class Territory:
    """The registry as the configuration divides it.

    `governed`: the ranges to encrypt, sorted by resource. `unknown`: paths with objects that no table maps to a
    resource, so that the configuration may or may not govern them; they are reported, never touched. `idle`:
    configured names that govern nothing, why, and what to do about it.
    """

    governed: tuple[ResourceRange, ...]
    unknown: tuple[str, ...]
    idle: tuple[tuple[str, str, str], ...] = ()
