//! The PortalRelease operator: takes data portals through their releases.
//!
//! One binary, `portal-release-operator`. A reconcile observes, decides, takes one step and projects the status; long phases run as
//! tasks that wake it. The ledger in the portal's own database is the truth, the status a projection of it.
//!
//! | module | what is there | imports |
//! |---|---|---|
//! | [`api`] | the kinds, their schema and status | nothing of ours |
//! | [`release`] | PURE: the table of phases, the plan, the next step, the status | `api` |
//! | [`database`] | names, lock and fence, ledger, staging, imports, checks, swap, backups; no Kubernetes | `api`, `release` (records) |
//! | [`cluster`] | workers, Secrets, events, status patches; no database | `api` |
//! | [`phases`] | what each phase does and what takes it back | the above, [`services`] |
//! | [`runner`] | phases as tasks: cancel, pause, record how they ended | `phases` |
//! | [`controller`] | observe, decide, act | everything |
//! | [`doctor`] | what stands against a release, looked at from the command line, read-only | `api`, `cluster`, `database`, `release` |
//! | [`portals`], [`leader`], [`http`], [`metrics`], [`notify`], [`telemetry`], [`config`], [`faults`] | one thing each | |
//!
//! Promises and where they are kept: one writer, fenced ([`database::lock`]); what was done and the row that says so commit together
//! ([`phases::Work`]); workers come back whatever happens ([`release::phase`], [`release::step`]); nothing is dropped with CASCADE
//! ([`database::staging`], [`database::backups`]).

pub mod api;
pub mod cluster;
pub mod config;
pub mod controller;
pub mod database;
pub mod doctor;
pub mod faults;
pub mod http;
pub mod leader;
pub mod metrics;
pub mod notify;
pub mod phases;
pub mod portals;
pub mod release;
pub mod runner;
pub mod services;
pub mod telemetry;
