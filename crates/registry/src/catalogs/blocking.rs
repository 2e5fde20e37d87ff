//! Catalogs with blocking queries (Consul, Nomad): one that waits for the list of services, and one a service that waits
//! for its instances. A question names the index of the last answer, and the server answers when there is a later one.
//!
//! What an error does: it ends all questions under way, and everything is listed anew, so that nothing is missed and a
//! server that begins with small indexes again is believed at once. A single service that makes no sense is reported;
//! its last good state stands, and it is asked for again after a while.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{AbortHandle, Aborted, BoxFuture, FutureExt, abortable};
use futures::stream::FuturesUnordered;
use lateen_api::registries::RegistryConfig;
use tokio::sync::Semaphore;

use super::driver::{News, Source, Told};
use super::http::{Answer, Ask, Client};
use super::service::{CatalogService, Naming};
use crate::{Failure, ObjectKey, Reason};

/// The same where there are more services than connections, so that each has its turn.
const SHORT_WAIT: Duration = Duration::from_secs(1);
/// When a service that makes no sense is asked for again.
const AGAIN: Duration = Duration::from_secs(10);

/// A catalog with blocking queries.
pub trait Directory: Send + Sync + 'static {
    /// What it is, for people.
    fn provider(&self) -> &'static str;

    /// How many lists there are, such as one for each datacenter and namespace.
    fn lists(&self) -> usize;

    /// The header with the index of an answer.
    fn index_header(&self) -> &'static str;

    /// The question for a list of services.
    fn ask_list(&self, list: usize) -> Ask;

    /// The services of a list: namespace and name.
    fn read_list(&self, list: usize, answer: &Answer) -> Result<BTreeSet<ObjectKey>, Failure>;

    /// The question for the instances of a service.
    fn ask_service(&self, list: usize, service: &ObjectKey) -> Ask;

    /// A service with its instances.
    fn read_service(
        &self,
        list: usize,
        service: &ObjectKey,
        answer: &Answer,
    ) -> Result<CatalogService, String>;
}

/// Which question.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Question {
    List(usize),
    Service(usize, ObjectKey),
}

type Answered = (Question, Result<Result<Answer, Failure>, Aborted>);

/// A directory as a source.
pub struct Blocking<D> {
    directory: Arc<D>,
    client: Arc<Client>,
    naming: Naming,
    permits: Arc<Semaphore>,
    connections: usize,
    /// How long a server may wait for something new.
    wait: Duration,
    under_way: FuturesUnordered<BoxFuture<'static, Answered>>,
    questions: BTreeMap<Question, Asked>,
    /// What is known of each service of each list.
    parts: BTreeMap<(usize, ObjectKey), (ObjectKey, Result<CatalogService, String>)>,
    by_key: BTreeMap<ObjectKey, BTreeSet<(usize, ObjectKey)>>,
    listed: bool,
}

#[derive(Debug)]
struct Asked {
    index: u64,
    answered: bool,
    under_way: AbortHandle,
}

impl<D: Directory> Blocking<D> {
    /// A source, as the configuration says.
    pub fn new(directory: D, client: Client, naming: Naming, config: &RegistryConfig) -> Self {
        let connections = if config.connections == 0 { 100 } else { config.connections as usize };
        Self {
            wait: config.interval.map_or(Duration::from_secs(60), |interval| interval.get()),
            directory: Arc::new(directory),
            client: Arc::new(client),
            naming,
            permits: Arc::new(Semaphore::new(connections)),
            connections,
            under_way: FuturesUnordered::new(),
            questions: BTreeMap::new(),
            parts: BTreeMap::new(),
            by_key: BTreeMap::new(),
            listed: false,
        }
    }

    async fn news(&mut self) -> Result<News, Failure> {
        if self.questions.is_empty() {
            for list in 0..self.directory.lists() {
                self.ask(Question::List(list), 0, Duration::ZERO);
            }
        }
        loop {
            let Some((question, answer)) = self.under_way.next().await else {
                self.begin_anew();
                return Err(Failure::new(Reason::Misconfigured, "nothing is configured to be asked for"));
            };
            let Ok(answer) = answer else { continue };
            let taken = match answer.and_then(Answer::good) {
                Ok(answer) => self.take(question, &answer),
                Err(failure) => Err(failure),
            };
            let changed = match taken {
                Ok(changed) => changed,
                Err(failure) => {
                    self.begin_anew();
                    return Err(failure);
                }
            };
            if self.listed {
                if !changed.is_empty() {
                    return Ok(News::Some(changed.into_iter().map(|key| self.told(key)).collect()));
                }
            } else if self.questions.values().all(|asked| asked.answered) {
                self.listed = true;
                let keys: Vec<ObjectKey> = self.by_key.keys().cloned().collect();
                let all = keys.into_iter().map(|key| self.told(key));
                return Ok(News::Full(all.filter_map(|(key, told)| Some((key, told?))).collect()));
            }
        }
    }

    /// Takes in an answer, asks the next question, and says which services are different.
    fn take(&mut self, question: Question, answer: &Answer) -> Result<BTreeSet<ObjectKey>, Failure> {
        let index = self.index(&question, answer);
        let mut changed = BTreeSet::new();
        let mut pause = Duration::ZERO;
        match &question {
            Question::List(list) => {
                let names = self.directory.read_list(*list, answer)?;
                self.take_list(*list, names, &mut changed);
            }
            Question::Service(list, service) => {
                let part = self.directory.read_service(*list, service, answer);
                if part.is_err() {
                    pause = AGAIN;
                }
                self.take_service(*list, service, part, &mut changed);
            }
        }
        self.ask(question, index, pause);
        Ok(changed)
    }

    /// The index for the next question. One that went back is of another history: all is asked for anew. None at all means
    /// that the server cannot block.
    fn index(&self, question: &Question, answer: &Answer) -> u64 {
        let index = answer.header(self.directory.index_header()).and_then(|index| index.parse().ok());
        let (index, earlier) =
            (index.unwrap_or(0u64), self.questions.get(question).map_or(0, |asked| asked.index));
        if index < earlier { 0 } else { index }
    }

    fn take_list(&mut self, list: usize, names: BTreeSet<ObjectKey>, changed: &mut BTreeSet<ObjectKey>) {
        let known: BTreeSet<ObjectKey> = self
            .questions
            .keys()
            .filter_map(|question| match question {
                Question::Service(of, service) if *of == list => Some(service.clone()),
                _ => None,
            })
            .collect();
        for gone in known.difference(&names) {
            if let Some(asked) = self.questions.remove(&Question::Service(list, gone.clone())) {
                asked.under_way.abort();
            }
            self.forget_part(&(list, gone.clone()), changed);
        }
        for new in names.difference(&known) {
            self.ask(Question::Service(list, new.clone()), 0, Duration::ZERO);
        }
        // What was known of services before everything was listed anew.
        let stale: Vec<_> =
            self.parts.keys().filter(|(of, name)| *of == list && !names.contains(name)).cloned().collect();
        for part in stale {
            self.forget_part(&part, changed);
        }
    }

    fn take_service(
        &mut self,
        list: usize,
        service: &ObjectKey,
        part: Result<CatalogService, String>,
        changed: &mut BTreeSet<ObjectKey>,
    ) {
        let place = (list, service.clone());
        let key = match (&part, self.parts.get(&place)) {
            (Ok(part), _) => self.naming.key(part),
            (Err(_), Some((key, _))) => key.clone(),
            (Err(_), None) => self.naming.key(&CatalogService {
                name: service.name.clone(),
                namespace: service.namespace.clone(),
                ..CatalogService::default()
            }),
        };
        if self.parts.get(&place).is_some_and(|old| old.0 == key && old.1 == part) {
            return;
        }
        self.forget_part(&place, changed);
        self.by_key.entry(key.clone()).or_default().insert(place.clone());
        changed.insert(key.clone());
        self.parts.insert(place, (key, part));
    }

    fn forget_part(&mut self, place: &(usize, ObjectKey), changed: &mut BTreeSet<ObjectKey>) {
        let Some((key, _)) = self.parts.remove(place) else { return };
        if let Some(places) = self.by_key.get_mut(&key) {
            places.remove(place);
            if places.is_empty() {
                self.by_key.remove(&key);
            }
        }
        changed.insert(key);
    }

    /// What all lists together tell of a service.
    fn told(&self, key: ObjectKey) -> (ObjectKey, Option<Told>) {
        let Some(places) = self.by_key.get(&key) else { return (key, None) };
        let mut parts = Vec::new();
        for place in places {
            match self.parts.get(place) {
                Some((_, Ok(part))) => parts.push(part),
                Some((_, Err(message))) => return (key, Some(Err(message.clone()))),
                None => {}
            }
        }
        let entry = self.naming.entry(&key, &parts);
        (key, Some(Ok(entry)))
    }

    fn ask(&mut self, question: Question, index: u64, pause: Duration) {
        let mut ask = match &question {
            Question::List(list) => self.directory.ask_list(*list),
            Question::Service(list, service) => self.directory.ask_service(*list, service),
        };
        let crowded = self.questions.len() > self.connections;
        let service = matches!(question, Question::Service(..));
        // An index of 0 is answered at once.
        if index > 0 {
            let wait = if crowded && service { SHORT_WAIT.min(self.wait) } else { self.wait };
            let joint = if ask.path.contains('?') { '&' } else { '?' };
            ask.path = format!("{}{joint}index={index}&wait={}ms", ask.path, wait.as_millis());
            // Servers add up to a sixteenth of it, so that not all answer at once.
            ask.wait = wait + wait / 16;
        }
        let (client, permits) = (Arc::clone(&self.client), Arc::clone(&self.permits));
        let pause =
            if index == 0 && pause.is_zero() && self.unblocked(&question) { SHORT_WAIT } else { pause };
        let (asking, under_way) = abortable(async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let _permit = if service { permits.acquire().await.ok() } else { None };
            client.ask(&ask).await
        });
        let answered = self.questions.contains_key(&question);
        self.questions.insert(question.clone(), Asked { index, answered, under_way });
        self.under_way.push(asking.map(move |answer| (question, answer)).boxed());
    }

    /// Whether a question without an index follows another such one: a server that does not block must not be asked
    /// without a pause.
    fn unblocked(&self, question: &Question) -> bool {
        self.questions.get(question).is_some_and(|asked| asked.index == 0 && asked.answered)
    }

    fn begin_anew(&mut self) {
        for asked in std::mem::take(&mut self.questions).into_values() {
            asked.under_way.abort();
        }
        self.under_way = FuturesUnordered::new();
        self.listed = false;
    }
}

impl<D: Directory> Source for Blocking<D> {
    fn provider(&self) -> &'static str {
        self.directory.provider()
    }

    fn next(&mut self) -> BoxFuture<'_, Result<News, Failure>> {
        self.news().boxed()
    }
}

/// A value of a path or query.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
