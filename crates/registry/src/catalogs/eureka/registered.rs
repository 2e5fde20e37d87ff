//! Who is registered, by what answers tell.

use std::collections::BTreeMap;

use super::{Applications, InstanceInfo};

/// All instances, by application and their own name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Registered(BTreeMap<(String, String), InstanceInfo>);

impl Registered {
    /// Takes in what an answer tells: all, or changes, each of which is the newest of its instance. So it does not matter
    /// which of them were taken in before.
    pub(super) fn apply(&mut self, applications: &Applications) {
        for application in &applications.application {
            for one in &application.instance {
                let key = (application.name.clone(), one.name().to_owned());
                if one.action_type.as_deref() == Some("DELETED") {
                    self.0.remove(&key);
                } else {
                    self.0.insert(key, one.clone());
                }
            }
        }
    }

    /// The hash that we should have, where it is another: that of the changes that were just taken in, or of those that the
    /// server wrote in another form since.
    pub(super) fn missed<'a>(&self, delta: &'a Applications, check: &'a Applications) -> Option<&'a str> {
        let ours = self.hash();
        let later = check.version() >= delta.version();
        let theirs = [Some(delta), Some(check).filter(|_| later)];
        theirs.into_iter().flatten().map(|one| one.hash.as_str()).find(|theirs| *theirs != ours)
    }

    /// How many instances have which status, as the server counts: `DOWN_1_UP_12_`.
    pub(super) fn hash(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for one in self.0.values() {
            *counts.entry(&one.status).or_default() += 1;
        }
        counts.into_iter().map(|(status, count)| format!("{status}_{count}_")).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each instance with its application.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &InstanceInfo)> {
        self.0.iter().map(|((application, _), one)| (application.as_str(), one))
    }
}

impl Applications {
    fn version(&self) -> u64 {
        let text = self.version.as_str().and_then(|text| text.parse().ok());
        text.or_else(|| self.version.as_u64()).unwrap_or_default()
    }
}

impl InstanceInfo {
    /// Its name within its application; old clients have none but their host's.
    fn name(&self) -> &str {
        if self.instance_id.is_empty() { &self.host_name } else { &self.instance_id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// `APPLICATION/INSTANCE STATUS ACTION`, each of them one instance, and the hash and version of the answer.
    fn answer(instances: &[&str], hash: &str, version: Value) -> Applications {
        let mut by_application: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for one in instances {
            let words: Vec<&str> = one.split(' ').collect();
            let (application, id) = words[0].split_once('/').unwrap();
            let instance = json!({"instanceId": id, "status": words[1], "actionType": words[2]});
            by_application.entry(application).or_default().push(instance);
        }
        let applications =
            by_application.into_iter().map(|(name, all)| json!({"name": name, "instance": all}));
        let applications: Vec<Value> = applications.collect();
        let answer = json!({"versions__delta": version, "apps__hashcode": hash, "application": applications});
        serde_json::from_value(answer).unwrap()
    }

    fn shown(registered: &Registered) -> Vec<String> {
        let show = |((application, id), one): (&(String, String), &InstanceInfo)| {
            format!("{application}/{id} {}", one.status)
        };
        registered.0.iter().map(show).collect()
    }

    #[test]
    fn changes_make_what_the_server_knows() {
        let (a, b, c) = ("A/1 UP ADDED", "A/2 UP ADDED", "B/1 UP ADDED");
        for (name, deltas, expected) in [
            ("nothing", vec![vec![]], vec!["A/1 UP"]),
            ("two in one", vec![vec![b, c]], vec!["A/1 UP", "A/2 UP", "B/1 UP"]),
            ("again", vec![vec![b, c], vec![b, c]], vec!["A/1 UP", "A/2 UP", "B/1 UP"]),
            ("one after the other", vec![vec![c], vec![b, c]], vec!["A/1 UP", "A/2 UP", "B/1 UP"]),
            ("the older answer last", vec![vec![b, c], vec![c]], vec!["A/1 UP", "A/2 UP", "B/1 UP"]),
            ("modified", vec![vec![a], vec!["A/1 DOWN MODIFIED"]], vec!["A/1 DOWN"]),
            (
                "modified before it was known",
                vec![vec!["B/1 OUT_OF_SERVICE MODIFIED"]],
                vec!["A/1 UP", "B/1 OUT_OF_SERVICE"],
            ),
            ("deleted", vec![vec!["A/1 UP DELETED"]], vec![]),
            ("deleted twice", vec![vec!["A/1 UP DELETED"], vec!["A/1 UP DELETED"]], vec![]),
            ("deleted, and of another application", vec![vec!["B/1 UP DELETED"]], vec!["A/1 UP"]),
            ("deleted and registered again", vec![vec!["A/1 UP DELETED"], vec![a]], vec!["A/1 UP"]),
        ] {
            let mut registered = Registered::default();
            registered.apply(&answer(&[a], "UP_1_", "1".into()));
            for delta in deltas {
                registered.apply(&answer(&delta, "", "1".into()));
            }
            assert_eq!(shown(&registered), expected, "{name}");
        }
        let old = json!({"application": {"name": "A", "instance": [{"hostName": "x"}, {"hostName": "y"}]}});
        let mut registered = Registered::default();
        registered.apply(&serde_json::from_value(old).unwrap());
        assert_eq!(registered.0.len(), 2, "without identifiers the hosts' names tell instances apart");
    }

    #[test]
    fn what_was_missed_is_known_from_the_later_of_two_answers() {
        let mut ours = Registered::default();
        ours.apply(&answer(&["A/1 UP ADDED", "A/2 UP ADDED", "A/3 DOWN ADDED"], "", Value::Null));
        assert_eq!(ours.hash(), "DOWN_1_UP_2_");
        let (same, other) = ("DOWN_1_UP_2_", "DOWN_1_UP_3_");
        for (name, delta, check, expected) in [
            ("both fit", (same, json!("3")), (same, json!("4")), None),
            ("the changes themselves do not fit", (other, json!("3")), (same, json!("4")), Some(other)),
            ("the changes were stale", (same, json!("3")), (other, json!("4")), Some(other)),
            ("the other form is stale", (same, json!("4")), (other, json!("3")), None),
            ("numbers, not texts", (same, json!(9)), (other, json!(10)), Some(other)),
            ("no versions", (same, Value::Null), (other, Value::Null), Some(other)),
        ] {
            let (delta, check) = (answer(&[], delta.0, delta.1), answer(&[], check.0, check.1));
            assert_eq!(ours.missed(&delta, &check), expected, "{name}");
        }
    }
}
