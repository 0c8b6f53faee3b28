//! Power cuts: whatever the disk's cache loses, what was acknowledged is there, and whole commits only.

use super::model::Model;
use super::simulated::{Chance, Disk, Effect, Platter, Surviving, is_long};
use super::*;

/// A few commits: puts and deletes of six names, some of them several pages long.
pub fn life(chance: &mut Chance, commits: usize) -> (Vec<Vec<Change>>, Model) {
    let mut model = Model::new();
    let mut life = Vec::new();
    for number in 0..commits {
        let first = chance.below(6);
        let changes = (0..=chance.below(3)).map(|step| {
            let key = pod(&format!("n{}", (first + step) % 6));
            if model.now().contains_key(&key) && chance.below(3) == 0 {
                return delete(key, Precondition::Any);
            }
            let long = if chance.below(4) == 0 { chance.below(20_000) } else { 0 };
            put(key, Precondition::Any, &format!("{number}{}", "x".repeat(long)))
        });
        let changes: Vec<Change> = changes.collect();
        model.commit(&changes).expect("nothing is demanded");
        life.push(changes);
    }
    (life, model)
}

pub fn limits() -> Limits {
    let log = compact::Retention { events: 8, bytes: u64::MAX };
    Limits { log, ..Limits::default() }
}

/// The content of a store that was just made.
pub async fn made() -> Vec<u8> {
    let disk = Disk::of(Vec::new());
    Store::start(disk.clone(), limits()).expect("memory does not fail").close().await;
    disk.content()
}

/// Whether `store` is `model` at some revision from `least` to `most`, with the log that leads there.
pub fn check(store: &Store, model: &Model, least: Revision, most: Revision) {
    let revision = store.revision();
    assert!(least <= revision && revision <= most, "{revision}, not within {least} to {most}");
    let scope = scope("pods", "");
    for number in store.oldest().get()..=revision.get() {
        let at = Revision::new(number).unwrap();
        let listed = store.list(&scope, None, 0, Some(at)).expect("is in the log");
        assert!(listed.items == model.list(&scope, at), "{at} of {revision} differs");
    }
    let mut expected = model.events(&scope, store.oldest());
    expected.retain(|event| event.revision <= revision);
    let mut watch = store.watch(&scope, store.oldest()).expect("the oldest is in reach");
    for event in expected {
        assert!(watch.try_next() == Some(Watched::Event(event.clone())), "{}", event.revision);
    }
    assert!(watch.try_next().is_none());
}

/// Whether `content` opens without a scan of the whole file.
fn opens_at_once(content: &[u8]) {
    let opened = Database::builder()
        .set_repair_callback(|repair| repair.abort())
        .create_with_backend(Disk::of(content.to_vec()));
    assert!(opened.is_ok(), "{opened:?}");
}

#[tokio::test]
async fn a_power_cut_at_any_moment_loses_nothing_that_was_acknowledged() {
    let mut chance = Chance::printed();
    let (commits, cuts) = if is_long() { (40, 12) } else { (8, 2) };
    let (life, model) = life(&mut chance, commits);
    let image = made().await;
    let disk = Disk::of(image.clone());
    let store = Store::start(disk.clone(), limits()).expect("memory does not fail");
    let mut asked = Vec::new();
    let mut acknowledged = Vec::new();
    for changes in life {
        asked.push(disk.steps());
        store.commit(changes).await.expect("memory does not fail");
        acknowledged.push(disk.steps());
    }
    store.close().await;
    let count = |of: &[usize], is_past: &dyn Fn(usize) -> bool| {
        let past = of.iter().filter(|steps| is_past(**steps)).count();
        Revision::new(1 + past as u64).unwrap()
    };
    let mut platter = Platter::new(image);
    for (step, effect) in disk.effects().iter().enumerate() {
        platter.step(effect);
        let done = step + 1;
        let least = count(&acknowledged, &|steps| steps <= done);
        let most = count(&asked, &|steps| steps < done);
        let mut ways = vec![Surviving::All, Surviving::Nothing];
        if !matches!(effect, Effect::Sync) {
            ways.extend(vec![Surviving::Sectors; cuts]);
        }
        for surviving in ways {
            println!("after {done} steps, surviving: {surviving:?}");
            let content = platter.cut(surviving, &mut chance);
            opens_at_once(&content);
            recovers(content, &model, (least, most), &mut chance).await;
        }
    }
}

/// Opens the store in `content`, goes on with it, and cuts the power once more on the way.
async fn recovers(
    content: Vec<u8>,
    model: &Model,
    (least, most): (Revision, Revision),
    chance: &mut Chance,
) {
    let disk = Disk::of(content.clone());
    let store =
        Store::start(disk.clone(), limits()).expect("what a power cut leaves can be opened");
    check(&store, model, least, most);
    let before = store.revision();
    let after = write(&store, "later", "1").await;
    assert_eq!(after, before.next());
    let acknowledged = disk.steps();
    store.close().await;
    let effects = disk.effects();
    let until = chance.below(effects.len() + 1);
    let mut platter = Platter::new(content);
    for effect in &effects[..until] {
        platter.step(effect);
    }
    println!("and again after {until} steps");
    let content = platter.cut(Surviving::Sectors, chance);
    opens_at_once(&content);
    let store = Store::start(Disk::of(content), limits()).expect("the same, twice in a row");
    if until >= acknowledged {
        assert_eq!(store.revision(), after);
    }
    assert!(store.revision() >= before, "{} after {before} was shown", store.revision());
    store.close().await;
}

#[tokio::test]
async fn a_first_start_that_was_cut_short_is_begun_anew() {
    let directory = std::env::temp_dir().join(format!("joey-store-{}", crate::sys::clock::uuid()));
    std::fs::create_dir(&directory).unwrap();
    let path = directory.join("state.redb");
    let disk = Disk::of(Vec::new());
    Store::start(disk.clone(), limits()).expect("memory does not fail").close().await;
    let effects = disk.effects();
    let mut platter = Platter::new(Vec::new());
    let mut chance = Chance::printed();
    for effect in &effects {
        platter.step(effect);
        std::fs::write(unfinished(&path), platter.cut(Surviving::Sectors, &mut chance)).unwrap();
        let store = Store::open(&path).expect("what is half made is not taken for a store");
        assert_eq!(store.revision(), Revision::FIRST);
        store.close().await;
        let names = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), ["state.redb"]);
        std::fs::remove_file(&path).unwrap();
    }
    std::fs::remove_dir(&directory).unwrap();
}
