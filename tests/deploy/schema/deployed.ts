// Grafana's published type of a dashboard, as JSON can say it.
import type { AnnotationQuery, Dashboard, VariableModel } from '@grafana/schema';

// Data sources set properties of their own on annotations; these are Prometheus'.
type Marks = { expr: string; step: string; titleFormat: string; textFormat: string; useValueForTime: boolean };
// The SDK writes what belongs to variables of intervals, of a newer schema, on all; Grafana ignores it.
type Interval = { auto?: boolean; auto_count?: number; auto_min?: string };

// Texts in the place of enumerations, since JSON has no others.
type Json<T> = 0 extends 1 & T
  ? unknown
  : T extends string
    ? `${T}`
    : T extends readonly (infer E)[]
      ? Json<E>[]
      : T extends object
        ? { [K in keyof T]: Json<T[K]> } & (T extends AnnotationQuery ? Marks : T extends VariableModel ? Interval : {})
        : T;

export type Deployed = Json<Dashboard>;
