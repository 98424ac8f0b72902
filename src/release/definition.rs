//! What a run works from: the Portal and the release as they were when it started, with the queries from ConfigMaps.
//!
//! Everything is pinned but what the tables here name. A change of what is pinned takes effect at the next safe point: a retry, the
//! end of a suspension or of a dry run, the rebuilding of a staging, or the next release.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::{
    api::{PortalReleaseSpec, PortalSpec},
    text::hex,
};

/// A part of a spec that a run reads live, and why.
pub struct Live {
    /// The field; a field of a field after a dot.
    pub field: &'static str,
    /// Why.
    pub why: &'static str,
}

const fn live(field: &'static str, why: &'static str) -> Live {
    Live { field, why }
}

/// What a run reads from the Portal as it is now. The values of Secrets are read when they are used, whatever names them.
pub const LIVE_IN_PORTAL: &[Live] = &[
    live("database.connectionSecretRef", "a new password, or a new host of the same database, has to work at once"),
    live("database.lockKey", "other tools watch this lock now"),
    live("database.lockTimeout", "how patient to be is decided while one waits"),
    live("database.statementTimeout", "as lockTimeout"),
    live("database.onLockTimeout", "as lockTimeout"),
    live("database.cancelBlockers", "as lockTimeout"),
    live("database.standbys", "as lockTimeout"),
    live("frozen", "the emergency freeze acts at once"),
    live("labelPattern", "decides whether a release may run, not what it does"),
    live("notifications", "whom to notify is not part of what is done"),
];

/// What may hold a token, so that the ledger must not: a SHA-256 is pinned in its place, by which an edit is noticed. The value is read
/// live. Items of a list are told apart by their names.
pub const SECRET_IN_PORTAL: &[&str] = &[
    "gates[].http.url",
    "gates[].http.body",
    "postSwap[].http.url",
    "postSwap[].http.body",
    "imports.core[].csv.url",
    "imports.related[].csv.url",
];

/// What a run reads from the PortalRelease as it is now: the control fields, and what cannot change.
pub const LIVE_IN_RELEASE: &[Live] = &[
    live("abort", "acts at once"),
    live("dryRun", "decides where the run stops"),
    live("label", "immutable"),
    live("onFailure", "decides what a failure leads to, when it happens"),
    live("portalRef", "immutable"),
    live("reason", "for the audit trail"),
    live("retention", "what is kept is decided when it is dropped"),
    live("retry", "acts once the release has ended"),
    live("rollForward", "accepts a loss that the run has just reported"),
    live("rollback", "acts at once, and accepts a loss that the run has just reported"),
    live("suspend", "acts at the next safe point"),
];

/// The text under a key of a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// It.
    Text(String),
    /// It does not exist: the API server's answer.
    Missing(String),
}

/// Texts from ConfigMaps, by `name/key`.
pub type Sources = BTreeMap<String, Source>;

/// What a run works from, as the ledger keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pinned {
    /// The Portal's spec, without what is read live, and with the SHA-256 of what may hold a secret.
    pub portal: Value,
    /// The release's spec, likewise.
    pub release: Value,
    /// Queries and Job templates.
    pub sources: Sources,
}

impl Pinned {
    /// Pins two specs and the texts that they name.
    ///
    /// # Errors
    /// When a spec cannot be written as JSON.
    pub fn of(portal: &PortalSpec, release: &PortalReleaseSpec, sources: Sources) -> Result<Self, serde_json::Error> {
        let mut pinned = Self::in_clear(portal, release, sources)?;
        each_secret(&mut pinned.portal, &mut |_, text| *text = masked(text));
        Ok(pinned)
    }

    fn in_clear(portal: &PortalSpec, release: &PortalReleaseSpec, sources: Sources) -> Result<Self, serde_json::Error> {
        let without = |spec: Value, live: &[Live]| {
            let mut spec = spec;
            live.iter().for_each(|part| drop(take(&mut spec, part.field)));
            spec
        };
        Ok(Self {
            portal: without(serde_json::to_value(portal)?, LIVE_IN_PORTAL),
            release: without(serde_json::to_value(release)?, LIVE_IN_RELEASE),
            sources,
        })
    }

    /// The specs that a phase works from: what is pinned, and what is live in the objects as they are now. Of what may hold a secret and
    /// is no longer in the Portal, only the SHA-256 is known.
    ///
    /// # Errors
    /// When this version cannot read what is pinned.
    pub fn specs(&self, portal: &PortalSpec, release: &PortalReleaseSpec) -> Result<(PortalSpec, PortalReleaseSpec), serde_json::Error> {
        let mut values = BTreeMap::new();
        each_secret(&mut serde_json::to_value(portal)?, &mut |place, text| drop(values.insert(place.to_owned(), text.clone())));
        let mut known = self.portal.clone();
        each_secret(&mut known, &mut |place, text| {
            if let Some(value) = values.get(place) {
                text.clone_from(value);
            }
        });
        Self { portal: known, ..self.clone() }.with_live(portal, release)
    }

    /// What is pinned, with what is live; what may hold a secret is what is pinned of it.
    fn with_live(&self, portal: &PortalSpec, release: &PortalReleaseSpec) -> Result<(PortalSpec, PortalReleaseSpec), serde_json::Error> {
        let with = |pinned: &Value, now: Value, live: &[Live]| {
            let (mut spec, mut now) = (pinned.clone(), now);
            for part in live {
                if let Some(value) = take(&mut now, part.field) {
                    put(&mut spec, part.field, value);
                }
            }
            spec
        };
        Ok((
            serde_json::from_value(with(&self.portal, serde_json::to_value(portal)?, LIVE_IN_PORTAL))?,
            serde_json::from_value(with(&self.release, serde_json::to_value(release)?, LIVE_IN_RELEASE))?,
        ))
    }

    /// The same as this version writes it: another one may have written other defaults, which are no differences.
    #[must_use]
    pub fn rewritten(self, portal: &PortalSpec, release: &PortalReleaseSpec) -> Self {
        let rewritten = self.with_live(portal, release).and_then(|(portal, release)| Self::in_clear(&portal, &release, Sources::new()));
        match rewritten {
            Ok(rewritten) => Self { sources: self.sources, ..rewritten },
            Err(_) => self,
        }
    }

    /// A text did not exist when it was read.
    pub fn lacks_sources(&self) -> bool {
        self.sources.values().any(|source| matches!(source, Source::Missing(_)))
    }

    /// The objects still say what is pinned, as this version understands it.
    pub fn is_still(&self, portal: &PortalSpec, release: &PortalReleaseSpec) -> bool {
        let now = Self::of(portal, release, Sources::new()).and_then(|now| now.with_live(portal, release));
        matches!((self.with_live(portal, release), now), (Ok(then), Ok(now)) if then == now)
    }

    /// SHA-256 over both specs.
    pub fn spec_hash(&self) -> String {
        digest(&[&self.portal.to_string(), &self.release.to_string()])
    }

    /// SHA-256 over everything.
    pub fn hash(&self) -> String {
        let sources = serde_json::to_string(&self.sources).unwrap_or_default();
        digest(&[&self.portal.to_string(), &self.release.to_string(), &sources])
    }

    /// Where the other one says something else, for people.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (kind, one, other) in [("Portal", &self.portal, &other.portal), ("PortalRelease", &self.release, &other.release)] {
            let (one, other) = (one.as_object(), other.as_object());
            let mut fields: Vec<&String> = one.into_iter().chain(other).flat_map(Map::keys).collect();
            fields.sort_unstable();
            fields.dedup();
            let differs = |field: &&String| one.and_then(|spec| spec.get(*field)) != other.and_then(|spec| spec.get(*field));
            found.extend(fields.into_iter().filter(differs).map(|field| format!("spec.{field} of the {kind}")));
        }
        let mut keys: Vec<&String> = self.sources.keys().chain(other.sources.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        // A key that only one of them has is named by a spec that differs.
        let differs = |key: &&String| matches!((self.sources.get(*key), other.sources.get(*key)), (Some(one), Some(other)) if one != other);
        found.extend(keys.into_iter().filter(differs).map(|key| format!("ConfigMap key {key}")));
        found
    }
}

fn digest(parts: &[&str]) -> String {
    let mut sha256 = Sha256::new();
    for part in parts {
        sha256.update((part.len() as u64).to_be_bytes());
        sha256.update(part.as_bytes());
    }
    hex(&sha256.finalize())
}

/// What is pinned of a text that may hold a secret.
fn masked(text: &str) -> String {
    format!("sha256:{}", hex(&Sha256::digest(text)))
}

/// Shows each text of a Portal's spec that may hold a secret, and where it is.
fn each_secret(portal: &mut Value, see: &mut dyn FnMut(&str, &mut String)) {
    for field in SECRET_IN_PORTAL {
        secrets_at(portal, field, "", see);
    }
}

fn secrets_at(spec: &mut Value, field: &str, above: &str, see: &mut dyn FnMut(&str, &mut String)) {
    let (first, rest) = field.split_once('.').map_or((field, None), |(first, rest)| (first, Some(rest)));
    let name = first.trim_end_matches("[]");
    match (spec.get_mut(name), rest) {
        (Some(Value::Array(items)), Some(rest)) => {
            for item in items {
                let place = format!("{above}{name}/{}.", item.get("name").and_then(Value::as_str).unwrap_or_default());
                secrets_at(item, rest, &place, see);
            }
        }
        (Some(Value::String(text)), None) => see(&format!("{above}{name}"), text),
        (Some(below), Some(rest)) => secrets_at(below, rest, &format!("{above}{name}."), see),
        _ => {}
    }
}

/// Takes a field out of a spec.
fn take(spec: &mut Value, field: &str) -> Option<Value> {
    match field.split_once('.') {
        Some((first, rest)) => take(spec.get_mut(first)?, rest),
        None => spec.as_object_mut()?.remove(field),
    }
}

/// Puts a field into a spec.
fn put(spec: &mut Value, field: &str, value: Value) {
    let Some(object) = spec.as_object_mut() else { return };
    match field.split_once('.') {
        Some((first, rest)) => put(object.entry(first).or_insert_with(|| Value::Object(Map::new())), rest, value),
        None => drop(object.insert(field.to_owned(), value)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn portal(extra: Value) -> PortalSpec {
        let mut spec = json!({
            "database": {"connectionSecretRef": {"name": "db", "key": "url"}, "schema": "data"},
            "tables": {"main": ["areas"]},
        });
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    fn release(extra: Value) -> PortalReleaseSpec {
        let mut spec = json!({"portalRef": {"name": "portal"}, "label": "Jul2026"});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn what_is_pinned_stays_and_what_is_live_is_read_live() {
        let pinned = Pinned::of(&portal(json!({})), &release(json!({"dryRun": true})), Sources::new()).unwrap();
        let edited = json!({
            "database": {"connectionSecretRef": {"name": "other", "key": "url"}, "schema": "elsewhere", "lockTimeout": "9s"},
            "tables": {"main": ["areas", "more"]},
            "frozen": true,
        });
        let (portal_now, release_now) = (portal(edited), release(json!({"suspend": true, "imports": {"sample": 5}})));
        let (portal_used, release_used) = pinned.specs(&portal_now, &release_now).unwrap();
        assert_eq!((portal_used.database.schema.as_str(), portal_used.tables.main.len()), ("data", 1));
        assert_eq!(portal_used.database.connection_secret_ref.name.as_str(), "other");
        assert!(portal_used.frozen && portal_used.database.lock_timeout == "9s".into());
        assert!(release_used.suspend && !release_used.dry_run && release_used.imports.sample.is_none());
        let anew = Pinned::of(&portal_now, &release_now, Sources::new()).unwrap();
        assert_eq!(
            pinned.differences(&anew),
            ["spec.database of the Portal", "spec.tables of the Portal", "spec.imports of the PortalRelease"]
        );
        assert_ne!(pinned.spec_hash(), anew.spec_hash());
        assert!(!pinned.is_still(&portal_now, &release_now) && anew.is_still(&portal_now, &release_now));
    }

    #[test]
    fn what_is_live_is_no_difference() {
        let pinned = Pinned::of(&portal(json!({})), &release(json!({})), Sources::new()).unwrap();
        let (portal, release) =
            (portal(json!({"frozen": true, "labelPattern": "x"})), release(json!({"retry": 3, "abort": {"reason": "x"}})));
        assert!(pinned.is_still(&portal, &release));
        let mut older = pinned.clone();
        older.portal.as_object_mut().unwrap().remove("freeze");
        assert_eq!(older.differences(&pinned), ["spec.freeze of the Portal"]);
        assert_eq!(older.rewritten(&portal, &release).differences(&pinned), Vec::<String>::new(), "a default that was not written then");
        assert_eq!(pinned.spec_hash(), Pinned::of(&portal, &release, Sources::new()).unwrap().spec_hash());
    }

    #[test]
    fn what_may_hold_a_secret_is_not_kept_and_its_edit_is_noticed() {
        let with = |token: &str| {
            let http = json!({"url": format!("https://example.org/{token}"), "body": token, "timeout": "9s"});
            portal(json!({
                "gates": [{"name": "g", "phase": "Preflight", "http": http}],
                "postSwap": [{"name": "h", "http": http}],
                "imports": {
                    "core": [{"name": "c", "into": "areas", "csv": {"url": http["url"]}}],
                    "related": [{"name": "r", "into": "areas", "csv": {"url": http["url"]}}],
                },
            }))
        };
        let (then, now, release) = (with("canary-one"), with("canary-two"), release(json!({})));
        let pinned = Pinned::of(&then, &release, Sources::new()).unwrap();
        let text = pinned.portal.to_string();
        assert_eq!((text.contains("canary"), text.matches("sha256:").count()), (false, SECRET_IN_PORTAL.len()), "{text}");
        assert_eq!(pinned.specs(&then, &release).unwrap().0, then);
        assert!(pinned.is_still(&then, &release) && !pinned.is_still(&now, &release));
        assert_eq!(pinned.specs(&now, &release).unwrap().0, now, "a new token works at once");
        let anew = Pinned::of(&now, &release, Sources::new()).unwrap();
        let edited = ["spec.gates of the Portal", "spec.imports of the Portal", "spec.postSwap of the Portal"];
        assert_eq!(pinned.clone().rewritten(&now, &release).differences(&anew), edited);
        assert_ne!(pinned.spec_hash(), anew.spec_hash());
        // What is no longer there is not made up.
        let gone = portal(json!({}));
        assert!(pinned.specs(&gone, &release).unwrap().0.gates[0].http.as_ref().unwrap().url.starts_with("sha256:"));
    }

    #[test]
    fn texts_of_config_maps_count() {
        let with = |text: &str| {
            let sources = Sources::from([("sql/sites".to_owned(), Source::Text(text.to_owned()))]);
            Pinned::of(&portal(json!({})), &release(json!({})), sources).unwrap()
        };
        assert_eq!(with("a").differences(&with("b")), ["ConfigMap key sql/sites"]);
        assert_ne!(with("a").hash(), with("b").hash());
        assert_eq!(with("a").spec_hash(), with("b").spec_hash());
    }

    #[test]
    fn each_live_field_is_a_field() {
        for (live, kind) in [(LIVE_IN_PORTAL, "portals"), (LIVE_IN_RELEASE, "portalreleases")] {
            let crds = crate::api::crds();
            let crd = crds.iter().find(|crd| crd.spec.names.plural == kind).unwrap();
            let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
            for part in live {
                assert!(!part.why.is_empty());
                let path = format!("/openAPIV3Schema/properties/spec/properties/{}", part.field.replace('.', "/properties/"));
                assert!(schema.pointer(&path).is_some(), "{} of {kind}", part.field);
            }
            for field in SECRET_IN_PORTAL.iter().filter(|_| kind == "portals") {
                let path = field.replace("[]", "/items").replace('.', "/properties/");
                assert!(schema.pointer(&format!("/openAPIV3Schema/properties/spec/properties/{path}")).is_some(), "{field}");
            }
        }
    }
}
