"""The VM controller: tells in a VirtualMachine's status how the VM is.

It owns ``status.phase``, ``allocatedCpu``, ``allocatedMemory``, ``cpuUtilization``, ``memoryUtilization``,
``conditions``, ``createdAt`` and ``observedGeneration``, and the label ``kubevirt.io/nodeName``. It never touches a
pod: which pods there are is the pod manager's business.

``logic`` what the status should say · ``app`` writing it
"""
