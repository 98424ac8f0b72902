use std::time::Duration;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace, Secret},
    events::v1::Event,
};
use kube::{Api, Resource, ResourceExt, api::Patch};
use portal_release_operator::{
    classify::Classify,
    cluster::{EventType, PortalEvents, is_namespace_terminating, patch_status, read_config_map_key, read_secret_key},
};
use serde_json::json;

use super::setup::{eventually, in_namespace};

#[tokio::test]
async fn only_listed_secrets_can_be_read() {
    in_namespace(async |c| {
        c.apply::<Secret>("listed", json!({ "stringData": { "url": "postgres://canary\n", "empty": "" } })).await;
        c.apply::<Secret>("unlisted", json!({ "stringData": { "url": "x" } })).await;
        c.apply::<ConfigMap>("listed", json!({ "data": { "sql": "SELECT 1" } })).await;
        let (client, ns) = (&c.operator, c.namespace.as_str());
        assert_eq!(read_secret_key(client, ns, "listed", "url").await.unwrap().expose(), "postgres://canary");
        assert_eq!(read_config_map_key(client, ns, "listed", "sql").await.unwrap(), "SELECT 1");
        for (name, key, text) in [
            ("listed", "other", "no value under the key other"),
            ("listed", "empty", "no value under the key empty"),
            ("absent", "url", "does not exist; create it with the key url"),
            ("unlisted", "url", "service account in that namespace"),
        ] {
            let error = read_secret_key(client, ns, name, key).await.unwrap_err().to_string();
            assert!(error.contains(text) && error.contains(&format!("Secret {ns}/{name}")) && !error.contains("canary"), "{error}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_status_is_not_written_to_a_namesake() {
    in_namespace(async |c| {
        let template = json!({ "metadata": { "labels": { "app": "a" } }, "spec": { "containers": [{ "name": "c", "image": "c" }] } });
        let spec = json!({ "spec": { "replicas": 0, "selector": { "matchLabels": { "app": "a" } }, "template": template } });
        let mut object = c.apply::<Deployment>("a", spec).await;
        patch_status(&c.admin, &object, &json!({ "collisionCount": 7 })).await.unwrap();
        assert_eq!(c.api::<Deployment>().get("a").await.unwrap().status.unwrap().collision_count, Some(7));
        object.meta_mut().uid = Some("00000000-0000-0000-0000-000000000000".into());
        let error = patch_status(&c.admin, &object, &json!({ "collisionCount": 8 })).await.unwrap_err();
        assert!(!error.call().unwrap().is_transient(), "{error}");
        assert_eq!(c.api::<Deployment>().get("a").await.unwrap().status.unwrap().collision_count, Some(7));
    })
    .await;
}

#[tokio::test]
async fn events_are_written_with_a_bounded_note() {
    in_namespace(async |c| {
        let object = c.apply::<ConfigMap>("subject", json!({})).await;
        let events = PortalEvents::new(c.operator.clone(), "test");
        for _ in 0..2 {
            events.publish(&object.object_ref(&()), EventType::Normal, "Frozen", "Freeze", &"é".repeat(5000)).await;
        }
        let all = c.api::<Event>().list(&Default::default()).await.unwrap();
        let event = all.items.iter().find(|event| event.reason.as_deref() == Some("Frozen")).unwrap();
        assert_eq!(event.note.as_ref().unwrap().len(), 1024);
        assert_eq!(event.series.as_ref().unwrap().count, 2);
    })
    .await;
}

#[tokio::test]
async fn a_namespace_under_deletion_is_recognised() {
    in_namespace(async |c| {
        c.apply::<ConfigMap>("anchor", json!({ "metadata": { "finalizers": ["e2e.local/hold"] } })).await;
        let namespaces: Api<Namespace> = Api::all(c.admin.clone());
        namespaces.delete(&c.namespace, &Default::default()).await.unwrap();
        let late: ConfigMap = serde_json::from_value(json!({ "metadata": { "name": "late" } })).unwrap();
        let error = eventually("a refusal", Duration::from_secs(10), async || c.api().create(&Default::default(), &late).await.err()).await;
        let release = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
        c.api::<ConfigMap>().patch("anchor", &Default::default(), &release).await.unwrap();
        assert!(is_namespace_terminating(&error), "{error:?}");
        assert_eq!(late.name_any(), "late");
    })
    .await;
}
