-- Run once, by the image, when the cluster is made: one role that owns the schema and one that the gateway works as.
-- What the second may do comes with the migration, which grants it SELECT and INSERT on events and what it needs of the
-- rest: it can alter neither an event nor a table. The image's superuser is used by nobody afterwards.

\set ON_ERROR_STOP on
\getenv owner_password TIDEGATE_OWNER_PASSWORD
\getenv gateway_password TIDEGATE_GATEWAY_PASSWORD

create role tidegate_owner login password :'owner_password';
create role tidegate_gateway login password :'gateway_password';
create database tidegate owner tidegate_owner encoding 'UTF8' template template0;
revoke all on database tidegate from public;
grant connect on database tidegate to tidegate_gateway;
