"""The report for an auditor: gathers records and facts once, and makes one bounded document of them."""
