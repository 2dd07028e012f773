"""The KEK of a KMS provider: when another one takes effect, and when it never does."""

from __future__ import annotations

from kube_rewrap.worker.records.kek import Kek, observe
from kube_rewrap.worker.wrapped import hash_of_key_id

A, B, C = (hash_of_key_id(name) for name in "abc")
SETTLE = 300.0


def after(*seen: tuple[str, float]) -> Kek:
    known = None
    for named, at in seen:
        known = observe(known, "cloud", named, at, SETTLE)
    assert known is not None
    return known


def test_the_first_one_is_the_target_at_once() -> None:
    kek = after((A, 100.0))
    assert (kek.target, kek.since, kek.why_held(SETTLE)) == (A, 100.0, "")


def test_another_one_takes_effect_after_it_stood_five_minutes() -> None:
    waiting = after((A, 100.0), (B, 200.0), (B, 499.0))
    assert (waiting.target, waiting.named) == (A, B)
    assert "takes effect after the plugin has named it for 300 s, from " in waiting.why_held(SETTLE)
    settled = after((A, 100.0), (B, 200.0), (B, 499.0), (B, 500.0))
    assert (settled.target, settled.since, settled.named, settled.former) == (B, 500.0, "", (A,))
    assert settled.why_held(SETTLE) == ""


def test_a_break_begins_the_wait_anew() -> None:
    assert after((A, 0.0), (B, 100.0), (A, 200.0), (B, 300.0), (B, 550.0)).target == A
    assert after((A, 0.0), (B, 100.0), (C, 300.0), (B, 450.0), (B, 700.0)).target == A


def test_a_clock_that_was_set_back_begins_the_wait_anew() -> None:
    assert after((A, 0.0), (B, 1000.0), (B, 500.0), (B, 799.0)).target == A
    assert after((A, 0.0), (B, 1000.0), (B, 500.0), (B, 800.0)).target == B


def test_case_22_a_former_one_never_comes_back() -> None:
    kek = after((A, 0.0), (B, 100.0), (B, 400.0), (A, 500.0), (A, 5_000.0))
    assert kek.target == B
    assert kek.is_return
    assert "a key id must never come back" in kek.why_held(SETTLE)
    other = observe(observe(kek, "cloud", C, 6_000.0, SETTLE), "cloud", C, 6_300.0, SETTLE)
    assert (other.target, other.former) == (C, (A, B))


def test_without_a_wait_another_one_takes_effect_at_once_and_a_former_one_does_not() -> None:
    kek = observe(after((A, 0.0)), "cloud", B, 1.0, 0.0)
    assert kek.target == B
    assert observe(kek, "cloud", A, 2.0, 0.0).target == B


def test_the_json_form_holds_it_whole() -> None:
    kek = after((A, 0.0), (B, 100.0), (B, 400.0), (C, 500.0))
    assert Kek.from_json(kek.to_json()) == kek
