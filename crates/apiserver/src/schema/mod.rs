//! The kinds and their schemas: what an object must look like, and what is told about it.
//!
//! [`Schemas`] is the schema side of the server ([`SchemaSide`]). What is served at one moment is one immutable
//! `State`, replaced as a whole when a definition comes, changes or goes; requests under way keep theirs.

mod cel;
pub(crate) mod check;
mod convert;
mod cost;
pub(crate) mod crd;
mod crd_checks;
mod decode;
pub(crate) mod node;
pub(crate) mod path;
mod shape;

use crate::admission::{Admission, Clients};
use crate::builtin::schemas::{BuiltInSchemas, OBJECT_META, schemas};
use crate::builtin::{self, kinds};
use crate::merge::View;
use crate::object::{add_finalizer, meta};
use crate::seam::{
    Admitted, Document, FieldValidation, KindInfo, KindTable, Objects, Operation, Origin, Resource,
    SchemaSide, WriteRequest,
};
use crate::status::{Cause, CauseReason, Status};
use crate::{discovery, openapi, table};
use arc_swap::ArcSwap;
use crd::CustomKind;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use path::Path;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

/// The resource of CustomResourceDefinitions.
pub(crate) const DEFINITIONS: Resource<'static> =
    Resource::new("apiextensions.k8s.io", "customresourcedefinitions");

/// The schema side of the server.
pub struct Schemas {
    state: ArcSwap<State>,
    definitions: Mutex<BTreeMap<String, Definition>>,
    admission: Admission,
    conversions: Clients,
}

/// One CustomResourceDefinition that is served.
#[derive(Clone)]
struct Definition {
    kinds: Vec<Arc<CustomKind>>,
}

/// Group, version, plural.
type KindKey = (String, String, String);

/// What is served at one moment.
pub(crate) struct State {
    table: Arc<KindTable>,
    custom: HashMap<KindKey, Arc<CustomKind>>,
    documents: OnceLock<openapi::Documents>,
    columns: Mutex<HashMap<KindKey, Arc<Vec<Value>>>>,
}

impl State {
    fn new(definitions: &BTreeMap<String, Definition>) -> State {
        let customs: Vec<&Arc<CustomKind>> =
            definitions.values().flat_map(|definition| &definition.kinds).collect();
        let mut infos: Vec<Arc<KindInfo>> = kinds::kinds().into_iter().map(Arc::new).collect();
        infos.extend(customs.iter().map(|kind| kind.info.clone()));
        let custom = customs.into_iter().map(|kind| (key(&kind.info), kind.clone())).collect();
        State {
            table: Arc::new(KindTable::new(infos)),
            custom,
            documents: OnceLock::new(),
            columns: Mutex::default(),
        }
    }

    /// All kinds.
    pub(crate) fn table(&self) -> &KindTable {
        &self.table
    }

    /// The custom kind behind the facts.
    pub(crate) fn custom(&self, info: &KindInfo) -> Option<&Arc<CustomKind>> {
        self.custom.get(&key(info))
    }

    fn documents(&self) -> &openapi::Documents {
        self.documents.get_or_init(|| openapi::Documents::new(self))
    }
}

fn key(info: &KindInfo) -> KindKey {
    (info.group.clone(), info.version.clone(), info.plural.clone())
}

impl Schemas {
    /// A schema side that knows the built-in kinds; definitions reach it through [`SchemaSide::changed`].
    pub fn new(objects: Arc<dyn Objects>) -> Schemas {
        let definitions = BTreeMap::new();
        Schemas {
            state: ArcSwap::from_pointee(State::new(&definitions)),
            definitions: Mutex::new(definitions),
            conversions: Clients::new(objects.clone()),
            admission: Admission::new(objects),
        }
    }

    fn shape(&self, state: &State, info: &KindInfo, object: &mut Value) -> Result<Vec<String>, Status> {
        let mut unknown = Vec::new();
        let builtin: &BuiltInSchemas = schemas();
        match state.custom(info) {
            Some(custom) => {
                if let Some(id) = builtin.compiled.named(OBJECT_META)
                    && let Some(metadata) = object.get_mut("metadata")
                {
                    shape::drop_nulls(&builtin.compiled, id, metadata);
                    let place = Path::Root.field("metadata");
                    reject_types(info, &check::check(&builtin.compiled, id, metadata, &place, |_, _| false))?;
                    shape::prune(&builtin.compiled, id, metadata, &place, false, &mut unknown);
                }
                shape::prune(&custom.schema, custom.root, object, &Path::Root, true, &mut unknown);
                shape::drop_nulls(&custom.schema, custom.root, object);
                shape::default(&custom.schema, custom.root, object);
            }
            None => {
                let name = kinds::schema_name(&info.group, &info.version, &info.kind);
                if let Some(id) = builtin.compiled.named(&name) {
                    shape::drop_nulls(&builtin.compiled, id, object);
                    let found = check::check(&builtin.compiled, id, object, &Path::Root, |_, _| false);
                    reject_types(info, &found)?;
                    shape::prune(&builtin.compiled, id, object, &Path::Root, true, &mut unknown);
                }
                builtin::default::default(&info.group, &info.kind, object);
            }
        }
        Ok(unknown)
    }

    async fn admit_write(&self, request: &WriteRequest, mut object: Value) -> Result<Admitted, Status> {
        let state = self.state.load_full();
        let info = &request.kind;
        let unknown = self.shape(&state, info, &mut object)?;
        let mut warnings = Vec::new();
        let texts: Vec<String> = unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
        match request.field_validation {
            FieldValidation::Strict if !texts.is_empty() => {
                let (kind, version) = (&info.kind, &info.version);
                return Err(Status::bad_request(format!(
                    "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {}",
                    texts.join(", ")
                )));
            }
            FieldValidation::Warn => warnings.extend(texts),
            _ => {}
        }
        warnings.extend(info.deprecation_warning.clone());
        if self.admission.mutate(request, &state.table, &mut object, &mut warnings).await? {
            self.shape(&state, info, &mut object)?;
        }
        if info.resource() == DEFINITIONS && request.subresource.is_none() {
            let taken = self.taken(&object);
            crd::set_status(&mut object, taken);
            if request.operation == Operation::Create {
                add_finalizer(&mut object, crd::CLEANUP);
            }
        }
        Ok(Admitted { object, warnings })
    }

    async fn validate_write(&self, request: &WriteRequest, object: &Value) -> Result<Vec<String>, Status> {
        let state = self.state.load_full();
        let mut warnings = Vec::new();
        if request.operation == Operation::Delete {
            protect(request)?;
            let mut unchanged = object.clone();
            self.admission.mutate(request, &state.table, &mut unchanged, &mut warnings).await?;
        } else {
            let mut causes = findings(&state, request, object);
            if causes.is_empty() {
                causes = held_against_rules(&state, request, object).await;
            }
            if !causes.is_empty() {
                let info = &request.kind;
                return Err(Status::invalid(&info.group, &info.kind, meta(object, "name"), causes));
            }
        }
        self.admission.validate(request, &state.table, object, &mut warnings).await?;
        Ok(warnings)
    }

    /// Who else has a name that a definition wants.
    fn taken(&self, definition: &Value) -> Option<String> {
        let (group, names) = (definition["spec"]["group"].as_str()?, &definition["spec"]["names"]);
        let own = names["plural"].as_str()?;
        let kind = names["kind"].as_str()?;
        let state = self.state.load();
        let mut others = state.table.all().iter().filter(|info| info.group == group && info.plural != own);
        let clash = others.find(|info| info.kind == kind || info.plural == own || info.list_kind == kind)?;
        Some(format!("{kind:?} is already in use by {}.{group}", clash.plural))
    }
}

/// All findings about an object that is about to be stored.
fn findings(state: &State, request: &WriteRequest, object: &Value) -> Vec<Cause> {
    let info = &request.kind;
    let old = request.old.as_deref();
    let mut causes = builtin::validate::validate_metadata(object);
    if let Some(custom) = state.custom(info) {
        causes.extend(check::check_change(&custom.schema, custom.root, object, old, |_, _| true));
        return causes;
    }
    let name = kinds::schema_name(&info.group, &info.version, &info.kind);
    let builtin = schemas();
    if let Some(id) = builtin.compiled.named(&name) {
        causes.extend(check::check(&builtin.compiled, id, object, &Path::Root, is_required));
    }
    causes.extend(match info.resource() == DEFINITIONS {
        true => crd::validate(object, old),
        false => builtin::validate::validate(&info.group, &info.kind, object, old),
    });
    let mut unique: Vec<Cause> = Vec::with_capacity(causes.len());
    for cause in causes {
        if !unique.iter().any(|known| known.field == cause.field && known.reason == cause.reason) {
            unique.push(cause);
        }
    }
    unique
}

/// What rules may cost where they are evaluated in place: some milliseconds.
const CHEAP: u64 = 20_000;

/// Findings of a custom kind's CEL rules. Those that take long keep no other request waiting.
async fn held_against_rules(state: &State, request: &WriteRequest, object: &Value) -> Vec<Cause> {
    let Some(custom) = state.custom(&request.kind).filter(|custom| custom.rules.is_some()) else {
        return Vec::new();
    };
    let evaluate = |custom: &CustomKind, object: &Value, old: Option<&Value>| {
        custom.rules.as_ref().map_or_else(Vec::new, |rules| rules.evaluate(object, old))
    };
    let cost = custom.rules.as_ref().map_or(Ok(0), |rules| rules.cost(object, request.old.as_deref()));
    match cost {
        Err(cause) => vec![cause],
        Ok(cost) if cost < CHEAP => evaluate(custom, object, request.old.as_deref()),
        Ok(_) => {
            let (custom, object, old) = (custom.clone(), object.clone(), request.old.clone());
            let found = tokio::task::spawn_blocking(move || evaluate(&custom, &object, old.as_deref()));
            found.await.unwrap_or_else(|error| {
                vec![Cause::forbidden("", format!("the rules of this kind cannot be evaluated: {error}"))]
            })
        }
    }
}

/// Fields that schemas call required because Go always writes them, though it does not insist on reading them.
fn is_required(path: &Path<'_>, field: &str) -> bool {
    match path.first() {
        None => !matches!(
            field,
            "metadata" | "endpoints" | "eventTime" | "reportingComponent" | "reportingInstance"
        ),
        Some("status" | "metadata") => false,
        Some(_) => true,
    }
}

/// A value of another type cannot be read at all: that is the client's mistake, not the object's (400, not 422).
fn reject_types(info: &KindInfo, causes: &[Cause]) -> Result<(), Status> {
    let wrong: Vec<String> = causes
        .iter()
        .filter(|cause| cause.reason == CauseReason::TypeInvalid)
        .map(|cause| format!("{}: {}", cause.field, cause.message))
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let (kind, version) = (&info.kind, &info.version);
    Err(Status::bad_request(format!(
        "{kind} in version {version:?} cannot be handled as a {kind}: {}",
        wrong.join(", ")
    )))
}

/// Namespaces without which a cluster is none.
fn protect(request: &WriteRequest) -> Result<(), Status> {
    let namespace = request.kind.group.is_empty() && request.kind.plural == "namespaces";
    if namespace && matches!(request.name.as_str(), "default" | "kube-system" | "kube-public") {
        return Err(Status::forbidden("", "namespaces", &request.name, "this namespace may not be deleted"));
    }
    Ok(())
}

impl SchemaSide for Schemas {
    fn kinds(&self) -> Arc<KindTable> {
        self.state.load().table.clone()
    }

    fn decode(
        &self,
        content_type: &str,
        body: &[u8],
        field_validation: FieldValidation,
    ) -> Result<Admitted, Status> {
        decode::decode(content_type, body, field_validation)
    }

    fn admit<'a>(
        &'a self,
        request: &'a WriteRequest,
        object: Value,
    ) -> BoxFuture<'a, Result<Admitted, Status>> {
        Box::pin(self.admit_write(request, object))
    }

    fn validate<'a>(
        &'a self,
        request: &'a WriteRequest,
        object: &'a Value,
    ) -> BoxFuture<'a, Result<Vec<String>, Status>> {
        Box::pin(self.validate_write(request, object))
    }

    fn changed(&self, resource: Resource<'_>, old: Option<&Value>, new: Option<&Value>) {
        if resource.group == "admissionregistration.k8s.io" {
            self.admission.changed(resource.plural, old, new);
            return;
        }
        if resource != DEFINITIONS {
            return;
        }
        let Some(name) = new.or(old).map(|definition| meta(definition, "name").to_owned()) else { return };
        // A status alone changes nothing that is served.
        if let (Some(old), Some(new)) = (old, new)
            && old["spec"] == new["spec"]
            && crd::is_established(old) == crd::is_established(new)
        {
            return;
        }
        let mut definitions = self.definitions.lock();
        match new.filter(|definition| crd::is_established(definition)) {
            Some(definition) => {
                let kinds = crd::custom_kinds(definition).into_iter().map(Arc::new).collect();
                definitions.insert(name, Definition { kinds });
            }
            None => {
                definitions.remove(&name);
            }
        }
        self.state.store(Arc::new(State::new(&definitions)));
        self.conversions.forget();
    }

    fn columns(&self, kind: &KindInfo) -> Arc<Vec<Value>> {
        let state = self.state.load();
        if let Some(known) = state.columns.lock().get(&key(kind)) {
            return known.clone();
        }
        let columns = Arc::new(match state.custom(kind) {
            Some(custom) => table::custom_columns(&custom.columns),
            None => table::columns(&kind.group, &kind.kind),
        });
        state.columns.lock().insert(key(kind), columns.clone());
        columns
    }

    fn cells(&self, kind: &KindInfo, object: &Value) -> Vec<Value> {
        match (kind.origin, self.state.load().custom(kind)) {
            (Origin::Custom, Some(custom)) => table::custom_cells(&custom.columns, object),
            _ => table::cells(&kind.group, &kind.kind, object),
        }
    }

    fn converts(&self, kind: &KindInfo) -> bool {
        kind.origin == Origin::Custom
            && self.state.load().custom(kind).is_some_and(|custom| custom.conversion.is_some())
    }

    fn convert<'a>(
        &'a self,
        kind: &'a KindInfo,
        wanted: &'a str,
        objects: Vec<Value>,
    ) -> BoxFuture<'a, Result<Vec<Value>, Status>> {
        Box::pin(async move {
            let state = self.state.load_full();
            let Some(client) = state.custom(kind).and_then(|custom| custom.conversion.as_ref()) else {
                return Ok(objects);
            };
            let mut converted = convert::convert(&self.conversions, client, kind, wanted, objects).await?;
            let version = wanted.rsplit('/').next().unwrap_or_default();
            if let Some(info) = state.table.find(&kind.group, version, &kind.plural) {
                for object in &mut converted {
                    self.shape(&state, info, object)?;
                }
            }
            Ok(converted)
        })
    }

    fn view(&self, kind: &KindInfo) -> View {
        if let Some(custom) = self.state.load().custom(kind) {
            return View::Custom(custom.clone());
        }
        let name = kinds::schema_name(&kind.group, &kind.version, &kind.kind);
        schemas().compiled.named(&name).map_or(View::Deduced, View::BuiltIn)
    }

    fn prune(&self, kind: &KindInfo, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        let builtin = &schemas().compiled;
        match self.view(kind) {
            View::Custom(custom) => {
                if let (Some(id), Some(metadata)) = (builtin.named(OBJECT_META), object.get_mut("metadata")) {
                    shape::prune(builtin, id, metadata, &Path::Root.field("metadata"), false, &mut unknown);
                }
                shape::prune(&custom.schema, custom.root, object, &Path::Root, true, &mut unknown);
            }
            View::BuiltIn(id) => shape::prune(builtin, id, object, &Path::Root, true, &mut unknown),
            View::Deduced => {}
        }
        unknown
    }

    fn document(&self, path: &str, query: &str, accept: &str) -> Option<Result<Document, Status>> {
        let state = self.state.load_full();
        if path.starts_with("/openapi/") {
            return state.documents().find(path, query, accept);
        }
        discovery::document(&state.table, path, accept).map(Ok)
    }
}
