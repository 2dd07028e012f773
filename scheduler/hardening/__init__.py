"""The hardening checklist of `rewrap audit`: gathers facts, and judges them point by point."""
