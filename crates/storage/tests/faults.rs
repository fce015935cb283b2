//! What each injected fault does, and that the composed operations survive it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use bytes::Bytes;
use sealign_storage::faulty::{Fault, FaultyStore, Operation, PlannedFault};
use sealign_storage::{ArtifactStore, ArtifactStoreExt, Category, CreateOutcome, Settled, Store};

fn failing(fault: Fault, operation: Option<Operation>, call: u64) -> FaultyStore<Store> {
    FaultyStore::new(Store::memory(), vec![PlannedFault { call, operation, fault }])
}

#[tokio::test]
async fn each_fault_does_or_does_not_take_effect_as_its_name_says() {
    for fault in Fault::ALL {
        let store = failing(fault, Some(Operation::Create), 0);
        assert!(!store.exists("k").await.unwrap());
        let error = store.create("k", Bytes::from_static(b"v")).await.unwrap_err();
        let applied = matches!(fault, Fault::CrashAfterApply | Fault::TimeoutApplied);
        assert_eq!(store.inner().exists("k").await.unwrap(), applied, "{fault:?}");
        let crashed = matches!(fault, Fault::CrashBefore | Fault::CrashAfterApply);
        assert_eq!(error.is_crash(), crashed);
        let category = if crashed { Category::Permanent } else { Category::Transient };
        assert_eq!(error.category(), category);
        assert_eq!(store.exists("k").await.is_err(), crashed, "{fault:?}: only a crash ends the process");
    }
}

#[tokio::test]
async fn a_restart_ends_the_crash_and_the_fault_does_not_strike_twice() {
    let store = failing(Fault::CrashBefore, None, 1);
    assert!(!store.exists("k").await.unwrap());
    assert!(store.create("k", Bytes::from_static(b"v")).await.unwrap_err().is_crash());
    assert!(store.is_crashed());
    store.restart();
    assert_eq!(store.create("k", Bytes::from_static(b"v")).await.unwrap(), CreateOutcome::Created);
    let operations: Vec<Operation> = store.calls().into_iter().map(|call| call.operation).collect();
    assert_eq!(operations, [Operation::Exists, Operation::Create, Operation::Create]);
}

#[tokio::test(start_paused = true)]
async fn a_settled_create_ends_with_our_bytes_after_any_single_fault() {
    for fault in [Fault::TimeoutApplied, Fault::TimeoutUnapplied, Fault::Error] {
        for operation in [Operation::Create, Operation::Get] {
            let store = failing(fault, Some(operation), 0);
            let settled = store.create_settled("k", Bytes::from_static(b"v")).await.unwrap();
            assert_eq!(settled, Settled::Ours, "{fault:?} at {operation:?}");
            assert_eq!(store.inner().get_bounded("k", 10).await.unwrap().unwrap(), "v");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_away_ends_a_settled_create_after_its_tries() {
    let always = |call| PlannedFault { call, operation: None, fault: Fault::Error };
    let store = FaultyStore::new(Store::memory(), (0..100).map(always).collect());
    assert!(store.create_settled("k", Bytes::from_static(b"v")).await.unwrap_err().is_transient());
    assert_eq!(store.calls().len(), 5);
}

#[tokio::test]
async fn composed_operations_reach_the_plan_through_a_trait_object() {
    let store = failing(Fault::Error, Some(Operation::Exists), 0);
    let object: &dyn ArtifactStore = &store;
    assert!(object.put_blob(Bytes::from_static(b"b")).await.unwrap_err().is_transient());
    let digest = object.put_blob(Bytes::from_static(b"b")).await.unwrap();
    assert_eq!(object.get_blob(&digest, 10).await.unwrap(), "b");
}
