"""Pruning joined with measurement: what needs both the channels of a network and its times on this machine."""

from lomt.compress.latency_search import LatencyAttempt, LatencyResult, prune_to_latency

__all__ = ["LatencyAttempt", "LatencyResult", "prune_to_latency"]
