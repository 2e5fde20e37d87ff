//! Protobuf messages of xDS, Envoy and Istio, their JSON form and type URLs. No logic, no services.
