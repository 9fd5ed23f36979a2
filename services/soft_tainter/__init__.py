"""Production's soft-tainter: taints that let the scheduler prefer nodes which the descheduler would not relieve.

Off unless an experiment asks for it (``replicas: 0``). It reads the descheduler's policy, asks the same query,
classifies with the same arithmetic, and keeps two PreferNoSchedule taints in line with the classes.
"""
