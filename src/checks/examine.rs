//! The one list of what must be true of a portal before a release: Preflight rejects a release with it, doctor prints it.

use sqlx::PgConnection;

use crate::{
    api::PortalSpec,
    classify::Classify,
    database::{
        checks::missing_relations,
        dependents, disk,
        identifiers::{Generation, Relations},
        portal_checks::{DataCheck, needed},
        template::TemplateContext,
        views::{ViewChange, view_change},
    },
    finding::Finding,
    work::PhaseError,
};

/// What is examined.
pub struct Examined<'a> {
    /// The Portal.
    pub portal: &'a PortalSpec,
    /// The relations that the release replaces.
    pub relations: &'a Relations,
    /// What the Portal's templates may use.
    pub templates: &'a TemplateContext,
    /// The staged twins of the materialized views exist, and are what the imports read.
    pub staged_views: bool,
}

/// One item of the list.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// Every relation exists.
    Relations,
    /// A swap can carry over what depends on them.
    Obstacles,
    /// The downloads view can get its query.
    DownloadsView,
    /// The disk has room for the copies.
    Room,
    /// The rows that imports would read.
    Data(DataCheck<'a>),
}

impl<'a> Item<'a> {
    /// The list in stages: a stage makes sense only when the one before found nothing.
    pub fn stages(portal: &'a PortalSpec) -> [Vec<Self>; 3] {
        let data = DataCheck::all(&portal.preflight).into_iter().map(Self::Data).collect();
        [vec![Self::Relations], vec![Self::Obstacles, Self::DownloadsView, Self::Room], data]
    }

    /// It in a word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Relations => "relations",
            Self::Obstacles => "obstacles",
            Self::DownloadsView => "downloads",
            Self::Room => "room",
            Self::Data(_) => "data",
        }
    }

    /// It cannot be examined in a session that is read-only.
    pub fn needs_writing(&self) -> bool {
        matches!(self, Self::DownloadsView)
    }

    /// What is being done, for progress.
    pub fn doing(&self) -> String {
        match self {
            Self::Relations => "looking for the relations".to_owned(),
            Self::Obstacles => "reading what depends on the relations".to_owned(),
            Self::DownloadsView => "trying the query of the downloads view".to_owned(),
            Self::Room => "comparing the disk with what the release needs".to_owned(),
            Self::Data(check) => check.doing(),
        }
    }

    /// Examines it. What is as it should be is a finding at level `Ok`, except for data.
    ///
    /// # Errors
    /// When it cannot be examined.
    pub async fn examine(&self, of: &Examined<'_>, connection: &mut PgConnection) -> Result<Vec<Finding>, PhaseError> {
        let schema = of.portal.database.schema.as_str();
        Ok(match self {
            Self::Relations => {
                let names = needed(of.portal);
                or_ok(missing_relations(connection, schema, &names).await?, || format!("all {} relations exist", names.len()))
            }
            Self::Obstacles => {
                let obstacles = dependents::obstacles(connection, of.relations, &Generation::Staging).await?;
                or_ok(obstacles, || "no dependent object blocks a swap".to_owned())
            }
            Self::DownloadsView => downloads_view(of, connection, schema).await?,
            Self::Room => {
                let room = disk::room(connection, of.relations, of.portal.preflight.free_bytes_query()).await?;
                or_ok(room.refusal().into_iter().collect(), || format!("a release {room}"))
            }
            Self::Data(check) => check.findings(connection, schema, &of.read_as(check.relation())).await?,
        })
    }
}

impl Examined<'_> {
    /// A materialized view of the Portal is checked as the imports read it: the staged twin where there is one.
    fn read_as(&self, name: &str) -> String {
        let is_view = self.portal.materialized_views.iter().any(|view| view.name.as_str() == name);
        if is_view && self.staged_views { Generation::Staging.name(name) } else { name.to_owned() }
    }
}

fn or_ok(findings: Vec<Finding>, state: impl FnOnce() -> String) -> Vec<Finding> {
    if findings.is_empty() { vec![Finding::ok(state())] } else { findings }
}

async fn downloads_view(of: &Examined<'_>, connection: &mut PgConnection, schema: &str) -> Result<Vec<Finding>, PhaseError> {
    let Some(view) = &of.portal.downloads_view else { return Ok(Vec::new()) };
    let object = format!("downloads view {}", view.name);
    let query = of.templates.render(&object, view.query.as_str(), None)?.sql;
    Ok(match view_change(connection, schema, view.name.as_str(), &query).await {
        Ok(ViewChange::Other { held_by: Some(held_by) }) => {
            let problem = format!("would lose or change a column, and {held_by} depends on it");
            vec![Finding::fail(object, problem, format!("keep the columns, or drop {held_by} first"))]
        }
        Ok(_) => Vec::new(),
        Err(error) if error.is_transient() => return Err(error.into()),
        Err(error) => vec![Finding::fail(object, format!("cannot get its query: {error}"), "correct downloadsView.query in the Portal")],
    })
}
