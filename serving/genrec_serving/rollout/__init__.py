"""Safe rollouts: steps, judgement, promotion and roll-back, on a laptop or on a cluster.

MLflow's aliases are the desired state: ``champion`` is the stable version, ``challenger`` the
canary. Everything else here follows from them.
"""
