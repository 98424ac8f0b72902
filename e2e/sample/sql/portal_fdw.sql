-- The way from the portal to its source. Runs as a superuser, once the portal database is empty.
-- Variables: portal, source (the two databases), maintenance (where roles.sql ran)
\set ON_ERROR_STOP on
\c :maintenance
SELECT password AS fdw_password FROM portal_release_sample.passwords WHERE role = 'fdw_reader' \gset
\c :portal
-- The server reaches itself by the address on which it was reached, or by its own socket.
SELECT COALESCE(host(inet_server_addr()), split_part(current_setting('unix_socket_directories'), ',', 1)) AS host,
       current_setting('port') AS port \gset

CREATE EXTENSION postgis;
CREATE EXTENSION postgres_fdw;
GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO portal_owner;

-- The remote side's own estimates: statistics of foreign tables would have to be fetched row by row after each month.
CREATE SERVER wdpa_source FOREIGN DATA WRAPPER postgres_fdw
  OPTIONS (host :'host', port :'port', dbname :'source', extensions 'postgis', use_remote_estimate 'true', fetch_size '5000');
ALTER SERVER wdpa_source OWNER TO portal_owner;
-- password_required: a test server may trust local connections, which postgres_fdw refuses to ordinary users by default.
CREATE USER MAPPING FOR portal_owner SERVER wdpa_source
  OPTIONS (user 'fdw_reader', password :'fdw_password', password_required 'false');

SET ROLE portal_owner;
CREATE SCHEMA portal_fdw;
IMPORT FOREIGN SCHEMA wdpa FROM SERVER wdpa_source INTO portal_fdw;
RESET ROLE;
