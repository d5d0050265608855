"""Serving of HSTU: vLLM plugin, KServe predictor, REST API and rollout."""
