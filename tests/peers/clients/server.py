"""gRPC servers on free ports, one for each argument; each answers every call with its argument."""

import sys
from concurrent import futures

import grpc


class Named(grpc.GenericRpcHandler):
    def __init__(self, name):
        self.name = name.encode()

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self.name)


servers = []
for name in sys.argv[1:]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Named(name),))
    print(name, server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    servers.append(server)
sys.stdin.read()
