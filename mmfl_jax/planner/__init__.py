"""What a study needs before it runs: on a TPU pod that is not here, compiled for on this machine, or on this machine.

Rooms: ``abstract`` (a study on shapes), ``hlo`` (what XLA compiled), ``copies`` (of arguments), ``plan`` (the numbers),
``pod`` (a topology), ``process`` (each topology in its own), ``here`` (this machine, checked by running), ``show``
(table and figure).
"""
