//! What the REST layer and the schema side know of each other, and nothing more.
//!
//! The REST layer (`http`) moves requests to the store and back; it asks a [`SchemaSide`] which kinds exist, what a
//! written object must look like, and how a table or a discovery document of it reads. The schema side reads objects
//! through [`Objects`]. Objects are `serde_json::Value` throughout.

use crate::merge::View;
use crate::status::Status;
use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// One served version of one kind: what routing, discovery, storage and `kubectl` must know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindInfo {
    /// API group, empty for the core group.
    pub group: String,
    /// Served version, such as `v1`.
    pub version: String,
    /// Kind, such as `Deployment`.
    pub kind: String,
    /// Kind of the list, such as `DeploymentList`.
    pub list_kind: String,
    /// Plural, as in paths.
    pub plural: String,
    /// Singular.
    pub singular: String,
    /// Short names, such as `deploy`.
    pub short_names: Vec<String>,
    /// Categories, such as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Verbs of the resource itself: `create`, `delete`, `deletecollection`, `get`, `list`, `patch`, `update`, `watch`.
    pub verbs: Vec<&'static str>,
    /// Subresources besides; a request for one that is not listed is answered with 404.
    pub subresources: Vec<Subresource>,
    /// Where the `scale` subresource finds its numbers.
    pub scale: Option<ScalePaths>,
    /// The version written into the store. All versions of a (group, plural) share their objects, which differ in
    /// `apiVersion` alone.
    pub storage_version: String,
    /// Whether `metadata.generation` counts changes of the specification.
    pub generation: bool,
    /// Whether the kind comes with the server or from a CustomResourceDefinition.
    pub origin: Origin,
    /// Dotted paths by which field selectors may select, besides `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Vec<String>,
    /// The warning sent with every request to a deprecated version.
    pub deprecation_warning: Option<String>,
}

/// Where a kind comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The server brings it along.
    BuiltIn,
    /// A CustomResourceDefinition defines it.
    Custom,
}

/// A subresource as discovery lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    /// Its name in paths: `status`, `scale`, `log`, `token`.
    pub name: &'static str,
    /// Group of the kind it speaks (`autoscaling` for scale).
    pub group: String,
    /// Version of that kind.
    pub version: String,
    /// That kind (`Scale`, `TokenRequest`, or the kind itself).
    pub kind: String,
    /// Verbs.
    pub verbs: Vec<&'static str>,
}

/// The paths of a CRD's `subresources.scale`, dotted, with a leading dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    /// `specReplicasPath`.
    pub spec_replicas: String,
    /// `statusReplicasPath`.
    pub status_replicas: String,
    /// `labelSelectorPath`: a string in the status of a custom kind, or (built-in kinds) a LabelSelector.
    pub label_selector: Option<String>,
}

impl KindInfo {
    /// `group/version`, or the version alone for the core group.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// Whether the kind has the subresource.
    pub fn has_subresource(&self, name: &str) -> bool {
        self.subresources.iter().any(|subresource| subresource.name == name)
    }

    /// The resource in the store: all versions of a kind share it.
    pub fn resource(&self) -> Resource<'_> {
        Resource { group: &self.group, plural: &self.plural }
    }
}

/// `group/version`, or the version alone for the core group.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// The table an object lives in: group and plural.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource<'a> {
    /// API group, empty for the core group.
    pub group: &'a str,
    /// Plural.
    pub plural: &'a str,
}

impl<'a> Resource<'a> {
    /// A resource by group and plural.
    pub const fn new(group: &'a str, plural: &'a str) -> Resource<'a> {
        Resource { group, plural }
    }
}

/// All kinds served at one moment; replaced as a whole when a CustomResourceDefinition comes, changes or goes.
#[derive(Debug, Default)]
pub struct KindTable {
    kinds: Vec<Arc<KindInfo>>,
    by_path: HashMap<(String, String, String), usize>,
}

impl KindTable {
    /// A table of the kinds, in the order in which discovery lists them.
    pub fn new(kinds: Vec<Arc<KindInfo>>) -> KindTable {
        let key = |kind: &KindInfo| (kind.group.clone(), kind.version.clone(), kind.plural.clone());
        let by_path = kinds.iter().enumerate().map(|(index, kind)| (key(kind), index)).collect();
        KindTable { kinds, by_path }
    }

    /// The kind at a path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<KindInfo>> {
        let key = (group.to_owned(), version.to_owned(), plural.to_owned());
        self.by_path.get(&key).map(|&index| &self.kinds[index])
    }

    /// Any served version of a resource; the storage version where it is served.
    pub fn find_resource(&self, group: &str, plural: &str) -> Option<&Arc<KindInfo>> {
        let mut found = None;
        for kind in self.kinds.iter().filter(|kind| kind.group == group && kind.plural == plural) {
            if kind.version == kind.storage_version {
                return Some(kind);
            }
            found.get_or_insert(kind);
        }
        found
    }

    /// The kind by group, version and kind, as an owner reference names it.
    pub fn find_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<KindInfo>> {
        self.kinds.iter().find(|info| info.group == group && info.version == version && info.kind == kind)
    }

    /// All kinds.
    pub fn all(&self) -> &[Arc<KindInfo>] {
        &self.kinds
    }
}

/// What a write does; the names are those of admission reviews.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A new object.
    Create,
    /// A changed object (PUT, PATCH, and writes to `status` and `scale`).
    Update,
    /// A removal.
    Delete,
}

impl Operation {
    /// The name on the wire: `CREATE`, `UPDATE`, `DELETE`.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
        }
    }
}

/// What to do about unknown and duplicate fields (`fieldValidation` parameter).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and say so in a `Warning` header: the default.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserInfo {
    /// User name, such as `system:serviceaccount:default:reviews`.
    pub name: String,
    /// Uid, where the authenticator knows one.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Further claims, such as the Pod a token is bound to.
    pub extra: Vec<(String, Vec<String>)>,
}

/// One write on its way to the store.
#[derive(Debug, Clone)]
pub struct WriteRequest {
    /// The kind in the version of the request.
    pub kind: Arc<KindInfo>,
    /// What it does.
    pub operation: Operation,
    /// `status` or `scale`, where the write is to a subresource. For `scale` the object is nevertheless the scaled
    /// object (as Kubernetes validates it), not the `Scale`.
    pub subresource: Option<&'static str>,
    /// Namespace; empty for cluster-wide kinds.
    pub namespace: String,
    /// Name; empty while `generateName` has not been resolved.
    pub name: String,
    /// Who asks.
    pub user: UserInfo,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// Unknown and duplicate fields.
    pub field_validation: FieldValidation,
    /// The object as it is now, in the version of the request; `None` for a creation.
    pub old: Option<Arc<Value>>,
    /// The options object of the request (`CreateOptions`, `UpdateOptions`, `DeleteOptions`), for webhooks.
    pub options: Value,
}

/// A decoded or admitted object, and what the client should be told besides.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    /// The object.
    pub object: Value,
    /// Texts for `Warning:` headers.
    pub warnings: Vec<String>,
}

/// A generated document: discovery or OpenAPI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// `Content-Type` of the answer.
    pub content_type: String,
    /// `ETag`, where the document has one.
    pub etag: Option<String>,
    /// `Cache-Control`, where the document wants one (OpenAPI v3 paths that carry their hash are immutable).
    pub cache_control: Option<&'static str>,
    /// Where to go instead (OpenAPI v3 with an outdated hash); answered with 301.
    pub redirect: Option<String>,
    /// The body.
    pub body: Bytes,
}

/// The kinds and their schemas, as the REST layer sees them.
///
/// The order on the write path is: [`decode`](SchemaSide::decode) (duplicate fields), for a patch the patch itself,
/// then the REST layer protects what a client may not write (`metadata.uid`, the status on a write to the main
/// resource, ...), then [`admit`](SchemaSide::admit) (unknown fields, pruning, defaulting, mutating webhooks,
/// defaulting again), then the REST layer fills in names, uid, generation, cluster IPs and node ports, then
/// [`validate`](SchemaSide::validate) (schema, CEL with `oldSelf`, built-in rules, validating webhooks), then the
/// commit. A dry run goes through everything but the commit. When another write was faster, a patch starts again from
/// the new object.
///
/// The implementation is `schema::Schemas`, made by `Schemas::new(objects: Arc<dyn Objects>)`; module lines of the
/// schema side stand in `lib.rs` under a heading of their own.
pub trait SchemaSide: Send + Sync + 'static {
    /// The kinds served now.
    fn kinds(&self) -> Arc<KindTable>;

    /// Parses a body (JSON, or YAML where `content_type` says so), finding duplicate fields according to
    /// `field_validation`.
    fn decode(
        &self,
        content_type: &str,
        body: &[u8],
        field_validation: FieldValidation,
    ) -> Result<Admitted, Status>;

    /// Turns what a client wrote into what would be stored. For [`Operation::Delete`] it is not called.
    fn admit<'a>(
        &'a self,
        request: &'a WriteRequest,
        object: Value,
    ) -> BoxFuture<'a, Result<Admitted, Status>>;

    /// Says no, or nothing; the strings are warnings. For [`Operation::Delete`] the object is the old one, and only
    /// validating (and mutating) webhooks and built-in protection are asked.
    fn validate<'a>(
        &'a self,
        request: &'a WriteRequest,
        object: &'a Value,
    ) -> BoxFuture<'a, Result<Vec<String>, Status>>;

    /// Called in order for every change of a CustomResourceDefinition or webhook configuration, after it is durable
    /// and before it is acknowledged; at start, once for each that exists.
    fn changed(&self, resource: Resource<'_>, old: Option<&Value>, new: Option<&Value>);

    /// Column definitions of a kind's table (`meta.k8s.io/v1` `TableColumnDefinition` objects).
    fn columns(&self, kind: &KindInfo) -> Arc<Vec<Value>>;

    /// The cells of one object, one a column.
    fn cells(&self, kind: &KindInfo, object: &Value) -> Vec<Value>;

    /// Whether the versions of a kind differ in more than their name, so that objects have to be converted.
    fn converts(&self, _kind: &KindInfo) -> bool {
        false
    }

    /// Objects of a kind in another version (`group/version`).
    fn convert<'a>(
        &'a self,
        _kind: &'a KindInfo,
        _wanted: &'a str,
        objects: Vec<Value>,
    ) -> BoxFuture<'a, Result<Vec<Value>, Status>> {
        Box::pin(async { Ok(objects) })
    }

    /// How objects of a kind are taken apart by server-side apply.
    fn view(&self, _kind: &KindInfo) -> View {
        View::Deduced
    }

    /// Removes the fields a kind does not know, and names them.
    fn prune(&self, _kind: &KindInfo, _object: &mut Value) -> Vec<String> {
        Vec::new()
    }

    /// A discovery document (`/api`, `/apis`, `/api/v1`, `/apis/GROUP`, `/apis/GROUP/VERSION`) or an OpenAPI one
    /// (`/openapi/v2`, `/openapi/v3`, `/openapi/v3/...`); `None` where the path is none.
    fn document(&self, path: &str, query: &str, accept: &str) -> Option<Result<Document, Status>>;
}

/// Reading access to the objects, for the schema side: always the newest durable state.
pub trait Objects: Send + Sync + 'static {
    /// One object (in its storage version); `namespace` is empty for cluster-wide kinds.
    fn get(&self, resource: Resource<'_>, namespace: &str, name: &str) -> Option<Arc<Value>>;

    /// All objects, of one namespace or of all.
    fn list(&self, resource: Resource<'_>, namespace: Option<&str>) -> Vec<Arc<Value>>;
}
