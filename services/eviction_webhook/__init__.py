"""The eviction webhook: turns the eviction of a VM's pod into a migration, with KubeVirt's words.

It only marks the VM (``status.evacuationNodeName``) and refuses the eviction; the pod manager does the rest.

``logic`` which answer · ``app`` reading, marking, answering · ``server`` HTTPS
"""
