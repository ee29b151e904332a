use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::store::{Compare, Operation};

/// What a store must do, without a store.
#[derive(Debug, Default, Clone)]
struct Model {
    entries: BTreeMap<String, (Vec<u8>, u64)>,
    revision: u64,
    changes: Vec<(u64, String, Option<Vec<u8>>)>,
}

impl Model {
    fn transact(&mut self, transaction: &Transaction) -> Outcome {
        for (index, compare) in transaction.compares.iter().enumerate() {
            let entry = self.entries.get(compare.key());
            let holds = match compare {
                Compare::Absent(_) => entry.is_none(),
                Compare::Present(_) => entry.is_some(),
                Compare::Unchanged(_, at) => entry.is_some_and(|(_, revision)| *revision == at.0),
            };
            if !holds {
                return Outcome::Conflict(index);
            }
        }
        self.revision += 1;
        for operation in &transaction.operations {
            match operation {
                Operation::Put(key, value, _) => {
                    self.entries.insert(key.clone(), (value.to_vec(), self.revision));
                    self.changes.push((self.revision, key.clone(), Some(value.to_vec())));
                }
                Operation::Delete(key) => {
                    if self.entries.remove(key).is_some() {
                        self.changes.push((self.revision, key.clone(), None));
                    }
                }
            }
        }
        Outcome::Committed(Revision(self.revision))
    }
}

#[derive(Debug, Clone)]
enum Step {
    Transact(Transaction),
    Range(String, Option<String>, usize),
    Restart,
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-c]{1,2}", 1 => "[a-cé/]{1,3}"]
}

fn compare() -> impl Strategy<Value = Compare> {
    prop_oneof![
        key().prop_map(Compare::Absent),
        key().prop_map(Compare::Present),
        (key(), 0..40u64).prop_map(|(key, at)| Compare::Unchanged(key, Revision(at))),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let value = prop::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        3 => (key(), value).prop_map(|(key, value)| Operation::Put(key, value.into(), None)),
        1 => key().prop_map(Operation::Delete),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let transaction = (prop::collection::vec(compare(), 0..2), prop::collection::vec(operation(), 0..5));
    prop_oneof![
        12 => transaction.prop_map(|(compares, operations)| Step::Transact(Transaction { compares, operations })),
        3 => ("[a-c]{0,1}", prop::option::of(key()), 0..5usize).prop_map(|(p, a, n)| Step::Range(p, a, n)),
        1 => Just(Step::Restart),
    ]
}

async fn follow(steps: Vec<Step>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let (mut store, mut model) = (ephemeral(&path), Model::default());
    let mut opened = Revision(0);
    for step in steps {
        match step {
            Step::Transact(transaction) => match store.transact(transaction.clone()).await {
                Ok(outcome) => assert_eq!(outcome, model.transact(&transaction)),
                Err(StoreError::Twice(_)) => {}
                Err(error) => panic!("{error}"),
            },
            Step::Range(prefix, after, limit) => {
                let (entries, revision) = store.range(&prefix, after.as_deref(), limit).await.unwrap();
                let found: Vec<_> =
                    entries.into_iter().map(|e| (e.key, (e.value.to_vec(), e.revision.0))).collect();
                let wanted: Vec<_> = model
                    .entries
                    .clone()
                    .into_iter()
                    .filter(|(k, _)| k.starts_with(&prefix) && after.as_ref().is_none_or(|a| k > a))
                    .take(limit)
                    .collect();
                assert_eq!((found, revision.0), (wanted, model.revision));
            }
            Step::Restart => {
                drop(store);
                store = ephemeral(&path);
                opened = Revision(model.revision);
            }
        }
    }
    let mut changes = store.watch("", opened).await.unwrap();
    for (revision, key, value) in model.changes.into_iter().filter(|change| change.0 > opened.0) {
        let (told_key, told_value, told_revision) = match changes.recv().await.unwrap() {
            Change::Put(entry) => (entry.key, Some(entry.value.to_vec()), entry.revision.0),
            Change::Deleted(key, revision) => (key, None, revision.0),
            Change::Compacted(_) => panic!("nothing was compacted"),
        };
        assert_eq!((told_revision, told_key, told_value), (revision, key, value));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_a_map_does(steps in prop::collection::vec(step(), 1..40)) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(follow(steps));
    }
}
