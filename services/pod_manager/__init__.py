"""The pod manager: the only process that creates, changes and deletes the VMs' pods, and so the one that migrates.

It owns ``status.podName``, ``status.nodeName`` and ``status.migrationState`` of a VirtualMachine, and removes
``status.evacuationNodeName`` (which only the eviction webhook sets). All that a hand-over changes is thereby one
write of one process, with the VM's ``resourceVersion`` as precondition.

``launcher`` what a pod looks like · ``logic`` what to do next · ``copies`` how far the memory copies are ·
``cluster`` what is seen · ``app`` doing it · ``telemetry`` telling of it
"""
