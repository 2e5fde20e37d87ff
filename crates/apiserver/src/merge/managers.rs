//! Who manages which fields: `metadata.managedFields`, kept at every write, and what applying makes of an object.

use super::set::{self, FieldSet};
use super::shape::Shape;
use super::walk::{compare, fields, merge, remove, with_named};
use crate::object::{meta_mut, now};
use serde_json::{Map, Value, json};

/// Entries of updates that are kept apart; older ones are put together.
const UPDATES_KEPT: usize = 10;
/// Who managed the fields of an object that nobody had applied, as Kubernetes names it.
const BEFORE: &str = "before-first-apply";
/// Who managed what is put together.
const ANCIENT: &str = "ancient-changes";
/// Metadata that the server manages, and what identifies an object.
const NOT_MANAGED: [&str; 9] = [
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "clusterName",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// How an entry came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By applying.
    Apply,
    /// By any other write.
    Update,
}

/// Who writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer<'a> {
    /// The manager's name.
    pub manager: &'a str,
    /// The version in which it writes.
    pub api_version: &'a str,
    /// The subresource it writes to, or empty.
    pub subresource: &'a str,
}

/// One manager's fields.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    manager: String,
    operation: Operation,
    api_version: String,
    subresource: String,
    time: String,
    fields: FieldSet,
}

impl Entry {
    fn of(writer: &Writer<'_>, operation: Operation, fields: FieldSet) -> Entry {
        Entry {
            manager: writer.manager.to_owned(),
            operation,
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            time: now(),
            fields,
        }
    }

    /// Who applies is the same manager in every version; who updates is another one in each.
    fn is(&self, writer: &Writer<'_>, operation: Operation) -> bool {
        self.manager == writer.manager
            && self.operation == operation
            && self.subresource == writer.subresource
            && (operation == Operation::Apply || self.api_version == writer.api_version)
    }

    /// The manager as conflicts name it.
    fn shown(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
            if !self.time.is_empty() {
                text.push_str(&format!(" at {}", self.time));
            }
        }
        text
    }

    fn decode(value: &Value) -> Option<Entry> {
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let operation = match value["operation"].as_str()? {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        let fields = match &value["fieldsV1"] {
            Value::Null => FieldSet::default(),
            fields => FieldSet::from_json(fields)?,
        };
        let (manager, api_version) = (text("manager"), text("apiVersion"));
        let (subresource, time) = (text("subresource"), text("time"));
        Some(Entry { manager, operation, api_version, subresource, time, fields })
    }

    fn encode(&self) -> Value {
        let operation = match self.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        let mut entry =
            json!({"manager": self.manager, "operation": operation, "apiVersion": self.api_version});
        if !self.time.is_empty() {
            entry["time"] = self.time.clone().into();
        }
        entry["fieldsType"] = "FieldsV1".into();
        entry["fieldsV1"] = self.fields.to_json();
        if !self.subresource.is_empty() {
            entry["subresource"] = self.subresource.clone().into();
        }
        entry
    }
}

/// All entries of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Managers(Vec<Entry>);

impl Managers {
    /// Reads `managedFields`; `None` where they are damaged.
    fn decode(list: Option<&Value>) -> Option<Managers> {
        match list {
            None | Some(Value::Null) => Some(Managers::default()),
            Some(list) => {
                list.as_array()?.iter().map(Entry::decode).collect::<Option<Vec<_>>>().map(Managers)
            }
        }
    }

    fn of(object: &Value) -> Managers {
        Managers::decode(object["metadata"].get("managedFields")).unwrap_or_default()
    }

    /// Writes them into an object, in Kubernetes' order: who applies first, then by time and name.
    fn put_into(mut self, object: &mut Value) {
        self.0.retain(|entry| !entry.fields.is_empty());
        self.cap();
        self.0.sort_by(|a, b| {
            let key = |entry: &Entry| {
                let Entry { manager, operation, api_version, subresource, time, .. } = entry.clone();
                (operation, time, manager, api_version, subresource)
            };
            key(a).cmp(&key(b))
        });
        let metadata = meta_mut(object);
        if self.0.is_empty() {
            metadata.shift_remove("managedFields");
        } else {
            metadata.insert("managedFields".to_owned(), self.0.iter().map(Entry::encode).collect());
        }
    }

    /// Puts the oldest updates together where there are too many.
    fn cap(&mut self) {
        let updates = |entries: &[Entry]| {
            let mut places: Vec<usize> =
                (0..entries.len()).filter(|&at| entries[at].operation == Operation::Update).collect();
            places.sort_by(|&a, &b| entries[a].time.cmp(&entries[b].time));
            places
        };
        let mut places = updates(&self.0);
        while places.len() > UPDATES_KEPT {
            let oldest = self.0.remove(places[0]);
            let api_version = oldest.api_version.clone();
            let bucket = Writer { manager: ANCIENT, api_version: &api_version, subresource: "" };
            match self.0.iter_mut().find(|entry| entry.is(&bucket, Operation::Update)) {
                Some(entry) => {
                    entry.fields = entry.fields.union(&oldest.fields);
                    entry.time = entry.time.clone().max(oldest.time);
                }
                None => {
                    // The first bucket takes the place of two entries, else nothing would be gained.
                    let mut entry = Entry::of(&bucket, Operation::Update, oldest.fields);
                    entry.time = oldest.time;
                    self.0.push(entry);
                    places = updates(&self.0);
                    if places.len() > UPDATES_KEPT
                        && let Some(&next) = places.iter().find(|&&at| self.0[at].manager != ANCIENT)
                    {
                        let next = self.0.remove(next);
                        let bucket = self.0.iter_mut().find(|entry| entry.manager == ANCIENT);
                        if let Some(bucket) = bucket {
                            bucket.fields = bucket.fields.union(&next.fields);
                        }
                    }
                }
            }
            places = updates(&self.0);
        }
    }
}

/// Whether fields may be taken from other managers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Force {
    /// None.
    No,
    /// All.
    Yes,
    /// These.
    Within(FieldSet),
}

/// The fields that an object still has as somebody else had written them: his, whoever the managers are.
pub fn unchanged(shape: Shape<'_>, written: &Value, live: &Value) -> FieldSet {
    let difference = compare(shape, Some(written), Some(live));
    fields(shape, written)
        .difference(&difference.modified)
        .difference(&difference.added)
        .difference(&difference.removed)
}

/// One field that another manager has and that is to become something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The other manager, as messages name it.
    pub manager: String,
    /// The field.
    pub path: String,
}

/// Keeps account of a write that is no apply: `new` has the managed fields that were sent with it, and gets those it is
/// stored with. `live` is the object before, `None` for a creation.
pub fn track(shape: Shape<'_>, live: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    let sent = new["metadata"].get("managedFields").cloned();
    meta_mut(new).shift_remove("managedFields");
    let known = live.map(Managers::of).unwrap_or_default();
    let mut managers = match &sent {
        // An empty entry asks for all to be forgotten (documentation, "Clearing managedFields").
        Some(Value::Array(list)) if matches!(list.as_slice(), [Value::Object(only)] if only.is_empty()) => {
            return;
        }
        // The managers cannot be changed through a subresource; damaged or missing ones are those from before.
        _ if !writer.subresource.is_empty() => known,
        sent => match Managers::decode(sent.as_ref()) {
            Some(sent) if !sent.0.is_empty() => sent,
            _ => known,
        },
    };
    if managers.0.is_empty() && live.is_some() {
        // Nobody keeps account of this object (any more), until it is applied.
        return;
    }
    let empty = Value::Object(Map::new());
    let difference = compare(shape, Some(live.unwrap_or(&empty)), Some(new));
    let changed = managed(difference.changed());
    let removed = difference.removed;
    for entry in managers.0.iter_mut().filter(|entry| !entry.is(writer, Operation::Update)) {
        entry.fields = entry.fields.difference(&changed).difference(&removed);
    }
    match managers.0.iter_mut().find(|entry| entry.is(writer, Operation::Update)) {
        Some(entry) => {
            let fields = entry.fields.union(&changed).difference(&removed);
            if fields != entry.fields {
                entry.fields = fields;
                entry.time = now();
            }
        }
        None => managers.0.push(Entry::of(writer, Operation::Update, changed)),
    }
    managers.put_into(new);
}

/// Applies a configuration: what becomes of the object (with its managed fields), or who is in the way.
pub fn apply(
    shape: Shape<'_>,
    live: Option<&Value>,
    applied: &Value,
    writer: &Writer<'_>,
    force: &Force,
) -> Result<Value, Vec<Conflict>> {
    let empty = Value::Object(Map::new());
    let mut managers = live.map(Managers::of).unwrap_or_default();
    let mut before = live.unwrap_or(&empty).clone();
    meta_mut(&mut before).shift_remove("managedFields");
    if managers.0.is_empty() && live.is_some() {
        let fields = managed(compare(shape, Some(&empty), Some(&before)).added);
        let nobody = Writer { manager: BEFORE, ..writer.clone() };
        managers.0.push(Entry::of(&nobody, Operation::Update, fields));
    }
    let fields = managed(fields(shape, applied));
    let own = managers.0.iter().position(|entry| entry.is(writer, Operation::Apply));
    let last = own.map(|at| managers.0[at].fields.clone()).unwrap_or_default();
    let merged = merge(shape, Some(&before), applied);
    let mut others = FieldSet::default();
    for (_, entry) in managers.0.iter().enumerate().filter(|(at, _)| Some(*at) != own) {
        others = others.union(&entry.fields);
    }
    let after = given_up(shape, merged, &last, &others.union(&fields));
    let difference = compare(shape, Some(&before), Some(&after));
    let changed = difference.changed();
    let mut conflicts = Vec::new();
    for (at, entry) in managers.0.iter_mut().enumerate() {
        if Some(at) == own {
            continue;
        }
        let contested = entry.fields.intersection(&changed);
        let refused = match force {
            Force::Yes => FieldSet::default(),
            Force::No => contested.clone(),
            Force::Within(allowed) => contested.difference(allowed),
        };
        let paths = refused.leaves().into_iter();
        conflicts.extend(paths.map(|path| Conflict { manager: entry.shown(), path }));
        entry.fields = entry.fields.difference(&contested).difference(&difference.removed);
    }
    if !conflicts.is_empty() {
        return Err(conflicts);
    }
    let same = before == after && own.is_some_and(|at| managers.0[at].fields == fields);
    match own {
        Some(_) if same => {}
        Some(at) => managers.0[at] = Entry::of(writer, Operation::Apply, fields),
        None => managers.0.push(Entry::of(writer, Operation::Apply, fields)),
    }
    let mut after = after;
    managers.put_into(&mut after);
    Ok(after)
}

/// Removes what the manager applied last time and no longer does, unless somebody has it.
fn given_up(shape: Shape<'_>, merged: Value, last: &FieldSet, owned: &FieldSet) -> Value {
    if last.is_empty() {
        return merged;
    }
    let empty = || Value::Object(Map::new());
    let last = with_named(shape, last);
    let pruned = remove(shape, &merged, &last).unwrap_or_else(empty);
    let everything = with_named(shape, &fields(shape, &merged));
    let left = with_named(shape, &fields(shape, &pruned));
    // What somebody has comes back, and with it what leads there.
    let lost = everything.difference(&left).difference(&with_named(shape, owned));
    let pruned = remove(shape, &merged, &lost).unwrap_or_else(empty);
    // What nobody ever had (defaults, fields of controllers) comes back as well, where it does not hang in the air.
    let left = with_named(shape, &fields(shape, &pruned));
    let lost = everything.difference(&left).intersection(&last);
    remove(shape, &merged, &lost).unwrap_or_else(empty)
}

/// Without what nobody manages.
fn managed(mut fields: FieldSet) -> FieldSet {
    fields.member = false;
    for step in ["apiVersion", "kind"] {
        fields.take_out(&[&set::field(step)]);
    }
    let metadata = set::field("metadata");
    for name in NOT_MANAGED {
        fields.take_out(&[&metadata, &set::field(name)]);
    }
    fields.take_out(&[&metadata]);
    fields
}

/// The message for conflicts, in Kubernetes' words.
pub fn message(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", only.manager, only.path);
    }
    let mut managers: Vec<&str> = conflicts.iter().map(|conflict| conflict.manager.as_str()).collect();
    managers.sort_unstable();
    managers.dedup();
    let mut lines = Vec::new();
    for manager in managers {
        lines.push(format!("conflicts with {manager}:"));
        let own = conflicts.iter().filter(|conflict| conflict.manager == manager);
        lines.extend(own.map(|conflict| format!("- {}", conflict.path)));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}
