"""`ray start` for a further node on loopback, which Ray's own command refuses to what it takes for a Mac.

RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 keeps all of Ray on 127.0.0.1; its command line then starts heads alone.
"""

from __future__ import annotations

import sys

from ray._private import ray_constants, services
from ray.scripts import scripts

if __name__ == "__main__":
    ray_constants.ENABLE_RAY_CLUSTER = True
    services.get_node_ip_address = lambda address=None: services.get_localhost_ip()
    sys.exit(scripts.main())
