"""The hardening checklist of `rewrap audit`: facts gathered, judged point by point."""
