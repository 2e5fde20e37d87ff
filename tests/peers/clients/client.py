"""Calls a target over and over, and prints every answer that differs from the one before."""

import sys
import time

import grpc

channel = grpc.insecure_channel(sys.argv[1])
call = channel.unary_unary("/lateen.Peer/Call")
last = None
while True:
    try:
        answer = call(b"", timeout=5).decode()
    except grpc.RpcError as error:
        answer = f"error {error.code().name} {error.details()}"
    if answer != last:
        print(answer, flush=True)
        last = answer
    time.sleep(0.05)
