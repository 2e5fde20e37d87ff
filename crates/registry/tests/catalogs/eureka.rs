//! What Eureka tells by changes alone, and what it does not tell.

use std::sync::atomic::Ordering;

use crate::EUREKA;
use crate::fake::{Fake, instance};
use crate::support::{Mesh, lines_about};

const ALL: &str = "/eureka/apps";
const CHANGES: &str = "/eureka/apps/delta";

#[tokio::test]
async fn changes_do_without_a_full_fetch() {
    let (fake, listener) = Fake::new().await;
    fake.put("reviews", vec![instance("10.0.0.1", 9080, "v1")]);
    let _server = fake.serve(listener, (EUREKA.router)(), EUREKA.check);
    let mesh = Mesh::start(&fake, EUREKA.provider, EUREKA.path).await;
    mesh.until("the service", |mesh| mesh.hosts() == ["reviews.eureka"]).await;
    // Two in one answer.
    fake.put("reviews", vec![instance("10.0.0.1", 9080, "v1"), instance("10.0.0.2", 9080, "v2")]);
    fake.put("ratings", vec![instance("10.0.0.3", 9080, "v1")]);
    mesh.until("both", |mesh| {
        mesh.endpoints("reviews.eureka") == ["10.0.0.1:9080 v1", "10.0.0.2:9080 v2"]
            && mesh.endpoints("ratings.eureka") == ["10.0.0.3:9080 v1"]
    })
    .await;
    fake.put("ratings", vec![]);
    mesh.until("one goes", |mesh| mesh.hosts() == ["reviews.eureka"]).await;
    assert_eq!(fake.asked(ALL), 1, "all else came by changes");
    assert!(fake.asked(CHANGES) >= 4);
    // What comes, goes and comes again while nobody asks is told once, as it is in the end.
    fake.put("ratings", vec![instance("10.0.0.3", 9080, "v1")]);
    fake.put("ratings", vec![]);
    fake.put("ratings", vec![instance("10.0.0.4", 9080, "v1")]);
    mesh.until("the last", |mesh| mesh.endpoints("ratings.eureka") == ["10.0.0.4:9080 v1"]).await;
    assert_eq!(fake.asked(ALL), 1);
}

#[tokio::test]
async fn what_changes_do_not_tell_is_seen_by_the_hash() {
    let (fake, listener) = Fake::new().await;
    fake.put("reviews", vec![instance("10.0.0.1", 9080, "v1")]);
    let _server = fake.serve(listener, (EUREKA.router)(), EUREKA.check);
    let mesh = Mesh::start(&fake, EUREKA.provider, EUREKA.path).await;
    mesh.until("the service", |mesh| mesh.hosts() == ["reviews.eureka"]).await;
    fake.eureka.forgetful.store(true, Ordering::SeqCst);
    fake.put("ratings", vec![instance("10.0.0.3", 9080, "v1")]);
    mesh.until("one that came long ago", |mesh| mesh.hosts() == ["ratings.eureka", "reviews.eureka"]).await;
    assert!(fake.asked(ALL) >= 2, "by a full fetch");
}

#[tokio::test]
async fn an_answer_that_the_server_keeps_without_the_last_change_hides_nothing() {
    let (fake, listener) = Fake::new().await;
    fake.put("reviews", vec![instance("10.0.0.1", 9080, "v1")]);
    let _server = fake.serve(listener, (EUREKA.router)(), EUREKA.check);
    let mesh = Mesh::start(&fake, EUREKA.provider, EUREKA.path).await;
    mesh.until("the service", |mesh| mesh.hosts() == ["reviews.eureka"]).await;
    fake.put("reviews", vec![instance("10.0.0.1", 9080, "v1"), instance("10.0.0.2", 9080, "v2")]);
    fake.eureka.keep(&fake);
    fake.put("ratings", vec![instance("10.0.0.3", 9080, "v1")]);
    mesh.until("both", |mesh| {
        mesh.endpoints("reviews.eureka").len() == 2
            && mesh.endpoints("ratings.eureka") == ["10.0.0.3:9080 v1"]
    })
    .await;
    let before = fake.asked(CHANGES);
    mesh.until("further questions", |_| fake.asked(CHANGES) > before + 6).await;
    assert_eq!(lines_about(mesh.name(), "changes were missed").len(), 1, "not a line a question");
    assert_eq!(mesh.endpoints("ratings.eureka"), ["10.0.0.3:9080 v1"], "and it stays");
    fake.eureka.let_go();
    fake.put("ratings", vec![instance("10.0.0.4", 9080, "v1")]);
    mesh.until("a change", |mesh| mesh.endpoints("ratings.eureka") == ["10.0.0.4:9080 v1"]).await;
}
