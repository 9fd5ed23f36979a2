"""The host node agent: a kubelet for one node, small on purpose.

It watches the pods bound to its node and runs each container as a host process in a root of its own, probes it,
starts it again, ends it, and writes back what is true. It knows nothing of the lab's components: a pod is all it
reads. What it can do, what it ignores and what it refuses is listed in ``fields`` and ``docs/host-node.md``.

``python -m labkit.cluster.hostnode --config FILE``

- pure: ``fields`` ``environment`` ``content`` ``sandbox`` ``hosts`` ``backoff`` ``probes`` ``status``
- effects: ``agent`` (which pods) → ``worker`` (one pod) → ``container`` (one process) → ``spawner``; beside them
  ``volumes`` ``logs`` ``events`` ``node`` ``access`` ``forwarder``
"""
