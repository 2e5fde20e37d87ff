//! The discovery protocol and nothing else: state of the world and delta, server and client, subscriptions, versions, nonces, ACK and NACK. It knows no resource kind.
