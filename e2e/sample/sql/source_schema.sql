-- The upstream database ("WDPA"): what the data team edits every month. The portal reads it over postgres_fdw.
\set ON_ERROR_STOP on
CREATE SCHEMA wdpa;

-- Which month the data stands at. One row, so a portal query tags every row it takes with a cheap cross join.
CREATE TABLE wdpa.release_info (
  release_month smallint PRIMARY KEY,   -- 0 is June 2026
  label         text NOT NULL,          -- Jun2026
  month         text NOT NULL           -- 2026-06
);

CREATE TABLE wdpa.iso3 (
  id     int PRIMARY KEY,
  code   text NOT NULL UNIQUE,
  name   text NOT NULL,
  region text NOT NULL
);

-- One row per parcel; a site without parcels has one row with parcel_id = site_id.
CREATE TABLE wdpa.wdpas (
  id                bigint PRIMARY KEY,
  site_id           bigint NOT NULL,
  parcel_id         text   NOT NULL,
  kind              text   NOT NULL CHECK (kind IN ('polygon', 'point')),
  site_type         text   NOT NULL,        -- PA or OECM
  name              text   NOT NULL,
  name_eng          text   NOT NULL,
  desig             text   NOT NULL,
  desig_eng         text   NOT NULL,
  desig_type        text   NOT NULL,
  iucn_cat          text   NOT NULL,
  realm             text   NOT NULL,
  rep_area          numeric(14, 4) NOT NULL,
  gis_area          numeric(14, 4) NOT NULL,
  rep_m_area        numeric(14, 4) NOT NULL,
  gis_m_area        numeric(14, 4) NOT NULL,
  no_take           text   NOT NULL,
  no_tk_area        numeric(14, 4) NOT NULL,
  status            text   NOT NULL,
  status_yr         int    NOT NULL,
  gov_type          text   NOT NULL,
  govsubtype        text   NOT NULL,
  own_type          text   NOT NULL,
  mang_auth         text   NOT NULL,
  mang_plan         text   NOT NULL,
  verif             text   NOT NULL,
  supp_info         text   NOT NULL,
  cons_obj          text   NOT NULL,
  geom              geometry(Geometry, 4326) NOT NULL,
  UNIQUE (site_id, parcel_id)
);

CREATE TABLE wdpa.wdpa_iso3 (
  wdpa_id bigint NOT NULL REFERENCES wdpa.wdpas,
  iso3_id int    NOT NULL REFERENCES wdpa.iso3,
  PRIMARY KEY (wdpa_id, iso3_id)
);
CREATE TABLE wdpa.wdpa_parent_iso3 (
  wdpa_id bigint NOT NULL REFERENCES wdpa.wdpas,
  iso3_id int    NOT NULL REFERENCES wdpa.iso3,
  PRIMARY KEY (wdpa_id, iso3_id)
);

CREATE TABLE wdpa.international_criteria (
  id   int PRIMARY KEY,
  code text NOT NULL UNIQUE
);
CREATE TABLE wdpa.wdpa_international_criteria (
  wdpa_id      bigint NOT NULL REFERENCES wdpa.wdpas,
  criterion_id int    NOT NULL REFERENCES wdpa.international_criteria,
  PRIMARY KEY (wdpa_id, criterion_id)
);

CREATE TABLE wdpa.sources (
  metadataid  int PRIMARY KEY,
  data_title  text NOT NULL,
  resp_party  text NOT NULL,
  year        int  NOT NULL,
  update_year text NOT NULL,            -- 2026-07: the month in which the source last delivered
  language    text NOT NULL,
  char_set    text NOT NULL,
  ref_system  text NOT NULL,
  scale       text NOT NULL,
  lineage     text NOT NULL,
  citation    text NOT NULL,
  disclaimer  text NOT NULL
);
CREATE TABLE wdpa.wdpas_sources (
  wdpa_id    bigint NOT NULL REFERENCES wdpa.wdpas,
  metadataid int    NOT NULL REFERENCES wdpa.sources,
  PRIMARY KEY (wdpa_id, metadataid)
);

CREATE TABLE wdpa.pame_sources (
  eff_metaid int PRIMARY KEY,
  data_title text NOT NULL,
  resp_party text NOT NULL,
  year       int  NOT NULL,
  language   text NOT NULL
);
CREATE TABLE wdpa.pame (
  asmt_id     bigint PRIMARY KEY,
  site_id     bigint NOT NULL,           -- no foreign key: evaluations outlive the sites they speak of
  methodology text   NOT NULL,
  asmt_year   int    NOT NULL,
  submit_year int    NOT NULL,
  verif       text   NOT NULL,
  restricted  boolean NOT NULL,
  info_url    text,
  eff_metaid  int    NOT NULL REFERENCES wdpa.pame_sources
);

CREATE TABLE wdpa.greenlist (
  site_id   bigint PRIMARY KEY,
  gl_status text NOT NULL,
  gl_expiry date NOT NULL,
  gl_link   text NOT NULL
);

CREATE TABLE wdpa.story_map_links (
  site_id   bigint NOT NULL,
  link      text   NOT NULL,
  link_type text   NOT NULL,
  PRIMARY KEY (site_id, link)
);

INSERT INTO wdpa.iso3 SELECT id, iso_3, name, region FROM sample.countries;
INSERT INTO wdpa.international_criteria
VALUES (1, '(i)'), (2, '(ii)'), (3, '(iii)'), (4, '(iv)'), (5, '(v)'), (6, '(vi)'), (7, '(vii)'), (8, '(viii)'), (9, '(ix)'), (10, '(x)');
GRANT USAGE ON SCHEMA wdpa TO fdw_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA wdpa TO fdw_reader;
