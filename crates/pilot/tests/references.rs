//! What objects name and is not there.

mod support;

use lateen_model::{ConfigKind, ConfigReference};
use lateen_pilot::References;
use support::World;

const WORLD: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: default}
spec: {ports: [{name: http, port: 9080}], selector: {app: reviews}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: default}
spec: {hosts: ['*.example.com'], ports: [{number: 80, name: http, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: nobody, namespace: default}
spec: {host: nobody}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec: {selector: {app: edge}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: good, namespace: default}
spec:
  hosts: ['*']
  gateways: [mesh, edge, default/edge]
  http: [{route: [{destination: {host: reviews, subset: v1}}, {destination: {host: a.example.com}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bad, namespace: default}
spec:
  hosts: ['*']
  gateways: [gone]
  http: [{route: [{destination: {host: reviews, subset: v9}}], mirror: {host: gone}}]
  tcp: [{route: [{destination: {host: gone.other.svc.cluster.local}}]}]
";

#[test]
fn what_is_missing_is_named_with_its_path() {
    let world = World::new(&[WORLD]);
    let snapshot = world.engine.snapshot();
    let references = References::new(snapshot);
    for (kind, name, expected) in [
        (ConfigKind::VirtualService, "good", &[][..]),
        (
            ConfigKind::VirtualService,
            "bad",
            &[
                "spec.gateways[0]: there is no Gateway gone",
                "spec.http[0].route[0].destination: no DestinationRule of reviews.default.svc.cluster.local defines the subset v9",
                "spec.http[0].mirror: no platform and no ServiceEntry knows the host gone.default.svc.cluster.local",
                "spec.tcp[0].route[0].destination: no platform and no ServiceEntry knows the host gone.other.svc.cluster.local",
            ][..],
        ),
        (ConfigKind::DestinationRule, "reviews", &[][..]),
        (
            ConfigKind::DestinationRule,
            "nobody",
            &["spec.host: no platform and no ServiceEntry knows the host nobody.default.svc.cluster.local"][..],
        ),
        (ConfigKind::Gateway, "edge", &[][..]),
        (ConfigKind::VirtualService, "unknown", &[][..]),
    ] {
        let object = ConfigReference { kind, namespace: "default".into(), name: name.to_owned() };
        assert_eq!(references.unresolved(&object), expected, "{name}");
    }
}
