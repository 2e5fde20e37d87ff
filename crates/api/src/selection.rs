//! How objects say which workloads or services they are for.

use std::collections::BTreeMap;

message! {
    /// Selects workloads by their labels, in the older objects of the traffic API.
    pub struct WorkloadSelector {
        /// Labels that a Pod or WorkloadEntry of the same namespace must all have.
        #[schemars(schema_with = "crate::schema::selector_labels")]
        pub labels: BTreeMap<String, String>,
    }

    /// Selects workloads by their labels; without any, all of the namespace (or of the mesh, in the root namespace).
    pub struct LabelSelector {
        /// Labels that a workload must all have.
        #[schemars(schema_with = "crate::schema::match_labels")]
        pub match_labels: BTreeMap<String, String>,
    }

    /// Names the object that a policy is attached to, such as a Gateway or a Service.
    #[schemars(extend("required" = ["kind", "name"]))]
    pub struct PolicyTargetReference {
        /// API group of the target; empty for Kubernetes' core.
        #[schemars(length(max = 253), regex(pattern = r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"))]
        pub group: String,
        /// Kind of the target.
        #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"))]
        pub kind: String,
        /// Name of the target.
        #[schemars(length(min = 1, max = 253))]
        pub name: String,
        /// Must be empty: the target lives in the policy's namespace.
        #[schemars(extend("x-kubernetes-validations" = [{
            "rule": "self.size() == 0",
            "message": "the target must be in the namespace of the policy; leave this out",
        }]))]
        pub namespace: String,
    }
}
