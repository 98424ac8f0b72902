//! The PortalRelease operator: takes data portals through their releases.
//!
//! One binary, `portal-release-operator`. A reconcile observes, decides, takes one step and projects the status; long phases run as
//! tasks that wake it. The ledger in the portal's own database is the truth, the status a projection of it.
//!
//! Imports point one way: a module imports only what is listed above it. A test compares this table with the `use` lines.
//!
//! | module | what is in it | imports |
//! |---|---|---|
//! | [`text`] | bounded texts, counts, lengths of time, digests | |
//! | [`secret`] | a value that is never shown | |
//! | [`term`] | for how long this process leads | |
//! | [`classify`] | errors that know whether they may pass by themselves | |
//! | [`telemetry`] | logs | |
//! | [`finding`] | what a check found | |
//! | [`api`] | the kinds, their schema and status | `text` |
//! | [`faults`] | halts for tests | `api` |
//! | [`metrics`] | every metric | `api` |
//! | [`cli`] | the command line | `telemetry` |
//! | [`release`] | PURE: the table of phases, the plan, the next step, the status | `api`, `text` |
//! | [`cluster`] | workloads, Jobs, Secrets, events, status patches; no database | `api`, `classify`, `secret`, `text` |
//! | [`leader`] | the Lease | `cluster`, `term`, `text` |
//! | [`storage`] | outgoing requests, guarded; files over HTTP and S3 | `classify`, `secret`, `text` |
//! | [`database`] | names, lock and fence, ledger, staging, loading, checks, swap, backups; no Kubernetes | `api`, `classify`, `finding`, `release`, `storage`, `term` |
//! | [`notify`] | what people are notified of, through Slack | `api`, `metrics`, `secret`, `text` |
//! | [`http`] | health, metrics, manifests | `metrics` |
//! | [`services`] | the handles that everything shares | `api`, `cluster`, `faults`, `metrics`, `notify`, `storage`, `term` |
//! | [`portals`] | the portals' databases, opened when first needed | `api`, `cluster`, `database`, `http`, `secret`, `term` |
//! | [`work`] | what every phase gets: data, handles, controls, fenced transactions, the definition | `api`, `classify`, `cluster`, `database`, `finding`, `notify`, `release`, `services`, `text` |
//! | [`jobs`] | one Kubernetes Job of a release, from its announcement to its removal | `api`, `classify`, `cluster`, `database`, `text`, `work` |
//! | [`imports`] | what fills the staged tables: queries, files, Jobs | `api`, `cluster`, `database`, `jobs`, `notify`, `storage`, `work` |
//! | [`checks`] | one engine for checks, and the one list of what blocks a release | `api`, `classify`, `cluster`, `database`, `finding`, `jobs`, `storage`, `text`, `work` |
//! | [`phases`] | what each phase does and what undoes it | `api`, `checks`, `cluster`, `database`, `finding`, `imports`, `jobs`, `metrics`, `release`, `text`, `work` |
//! | [`doctor`] | what would block a release, checked from the command line, read-only | `api`, `checks`, `cluster`, `database`, `finding`, `imports`, `release`, `storage`, `work` |
//! | [`runner`] | phases as tasks: start, cancel, pause, record how they ended | `api`, `cluster`, `database`, `notify`, `phases`, `release`, `text`, `work` |
//! | [`controller`] | observe, decide, act | `api`, `cluster`, `database`, `notify`, `portals`, `release`, `runner`, `services`, `text`, `work` |
//!
//! Promises and where they are kept: one writer, fenced ([`database::lock`]); what was done and the row that says so commit together
//! ([`work::Work`]); workers come back however a run ends ([`release::phases`], [`release::unwind`]); nothing is dropped with CASCADE
//! ([`database::staging`], [`database::backups`]).

pub mod api;
pub mod checks;
pub mod classify;
pub mod cli;
pub mod cluster;
pub mod controller;
pub mod database;
pub mod doctor;
pub mod faults;
pub mod finding;
pub mod http;
pub mod imports;
pub mod jobs;
pub mod leader;
pub mod metrics;
pub mod notify;
pub mod phases;
pub mod portals;
pub mod release;
pub mod runner;
pub mod secret;
pub mod services;
pub mod storage;
pub mod telemetry;
pub mod term;
pub mod text;
pub mod work;

#[cfg(test)]
mod layout;
